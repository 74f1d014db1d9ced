export { CudaBackend, type CudaOptions, openCudaBackend } from "./backend.ts";
export { CudaError, CudaLostError, CudaOutOfMemoryError, CudaUnavailableError } from "./errors.ts";
export { type CudaStatus, cudaStatus, type LibraryStatus } from "./status.ts";
