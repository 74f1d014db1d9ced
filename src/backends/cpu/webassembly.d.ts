/** The part of WebAssembly's interface that the runtime uses: its types come with the DOM library otherwise. */
declare global {
  namespace WebAssembly {
    class Module {
      private readonly brand;
    }
    class Instance {
      constructor(module: Module, imports: Record<string, Record<string, unknown>>);
      readonly exports: Record<string, unknown>;
    }
    class Memory {
      constructor(descriptor: { initial: number; maximum: number; shared: boolean });
      readonly buffer: SharedArrayBuffer;
    }
    class Global {
      value: number;
    }
    function compile(bytes: Uint8Array): Promise<Module>;
  }
}

export {};
