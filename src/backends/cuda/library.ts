import { existsSync, readdirSync } from "node:fs";
import { join } from "node:path";
import koffi from "koffi";
import { CudaUnavailableError } from "./errors.ts";

type Handle = ReturnType<typeof koffi.load>;

/** A shared library of CUDA: what it is called, where it may be, and how to get it. */
export interface LibrarySpec {
  readonly name: string;
  /** File names, the most wanted first. */
  readonly files: readonly string[];
  /** Its folders in Python wheels, under site-packages/nvidia. */
  readonly wheels: readonly string[];
  readonly remedy: string;
}

export const DRIVER: LibrarySpec = {
  name: "CUDA driver",
  files: process.platform === "win32" ? ["nvcuda.dll"] : ["libcuda.so.1", "libcuda.so"],
  wheels: [],
  remedy: "install NVIDIA's driver (450 or newer); in a container, start it with the GPU (docker run --gpus all)",
};

export const NVRTC: LibrarySpec = {
  name: "NVRTC",
  files: ["libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so.11.2", "libnvrtc.so"],
  wheels: ["cu13/lib", "cuda_nvrtc/lib"],
  remedy: "pip install nvidia-cuda-nvrtc-cu12 (or nvidia-cuda-nvrtc for CUDA 13), or install the CUDA toolkit",
};

export const CUBLASLT: LibrarySpec = {
  name: "cuBLASLt",
  files: ["libcublasLt.so.13", "libcublasLt.so.12", "libcublasLt.so.11", "libcublasLt.so"],
  wheels: ["cu13/lib", "cublas/lib"],
  remedy: "pip install nvidia-cublas-cu12 (or nvidia-cublas for CUDA 13), or install the CUDA toolkit",
};

/** Optional: attention that is faster than the kernels here. */
export const CUDNN: LibrarySpec = {
  name: "cuDNN",
  files: ["libcudnn.so.9", "libcudnn.so"],
  wheels: ["cudnn/lib"],
  remedy: "pip install nvidia-cudnn-cu12 (or nvidia-cudnn-cu13)",
};

export interface LoadedLibrary {
  readonly handle: Handle;
  /** The path it was loaded from, or the bare name when the loader found it. */
  readonly path: string;
}

/** Folders that are searched after the loader's own, in order. */
export function searchFolders(spec: LibrarySpec): string[] {
  const folders: string[] = [];
  const { CUDA_HOME, CUDA_PATH, VIRTUAL_ENV, CONDA_PREFIX, HOME } = process.env;
  for (const root of [CUDA_HOME, CUDA_PATH]) if (root) folders.push(join(root, "lib64"), join(root, "lib"));
  folders.push(...toolkits());
  for (const root of [VIRTUAL_ENV, CONDA_PREFIX, HOME && join(HOME, ".local"), "/usr/local", "/usr", ...venvs()]) {
    if (!root) continue;
    for (const packages of sitePackages(root)) folders.push(...spec.wheels.map((w) => join(packages, "nvidia", w)));
  }
  return [...new Set(folders)].filter((folder) => existsSync(folder));
}

/** Load the first that can be; a CudaUnavailableError tells where it was looked for and how to get it. */
export function loadLibrary(spec: LibrarySpec): LoadedLibrary {
  const tried: string[] = [];
  const attempt = (path: string): LoadedLibrary | null => {
    try {
      return { handle: koffi.load(path), path };
    } catch (error) {
      tried.push(error instanceof Error ? error.message : String(error));
      return null;
    }
  };
  const folders = searchFolders(spec);
  for (const file of spec.files) {
    const found = attempt(file);
    if (found) return found;
    for (const folder of folders) {
      const path = join(folder, file);
      const loaded = existsSync(path) ? attempt(path) : null;
      if (loaded) return loaded;
    }
  }
  const places = ["the loader's path", ...folders].join(", ");
  throw new CudaUnavailableError(
    `${spec.name} was not found (looked for ${spec.files.join(", ")} in ${places}): ${spec.remedy}`,
  );
}

function toolkits(): string[] {
  try {
    return readdirSync("/usr/local")
      .filter((name) => name.startsWith("cuda"))
      .sort()
      .reverse()
      .flatMap((name) => [`/usr/local/${name}/lib64`, `/usr/local/${name}/targets/x86_64-linux/lib`]);
  } catch {
    return [];
  }
}

/** The environment of the `python3` that is first in the path, when it is a virtual one. */
function venvs(): string[] {
  const folders = (process.env.PATH ?? "").split(":").filter((dir) => dir && existsSync(join(dir, "python3")));
  return folders.slice(0, 3).map((dir) => join(dir, ".."));
}

function sitePackages(root: string): string[] {
  const lib = join(root, "lib");
  if (!existsSync(lib)) return [];
  return readdirSync(lib)
    .filter((name) => name.startsWith("python3"))
    .flatMap((name) => [join(lib, name, "site-packages"), join(lib, name, "dist-packages")])
    .filter((folder) => existsSync(join(folder, "nvidia")));
}
