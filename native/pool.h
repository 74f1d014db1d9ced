// The fork-join pool behind parallel_run (vm.h), and what its host gives it.
#pragma once
#include <stdint.h>

// Makes sure that threads are there (the caller's own counts as one); answers how many there are, at most `threads`.
int pool_reserve(int threads);
// Threads that parallel_run uses from now on. Call between programs only.
void pool_use(int threads);
// Ends every worker. Thread ids start at 1 again afterwards.
void pool_stop();
// The body of a worker thread: takes jobs until pool_stop.
void pool_worker(int thread);

enum { MAX_THREADS = 256 };

// The host's part: native/host_uv.cc or native/wasm.cc.
bool host_start(int thread);  // starts pool_worker(thread) on a thread of its own; false: it cannot
void host_join(int thread);   // waits for it to end
void host_sleep(int thread);  // takes one wake-up of the worker, waiting for it
void host_wake(int thread);   // gives one
// Waits a moment for *word to differ from value, leaving the processor to others.
void host_pause(int32_t* word, int32_t value);
void host_changed(int32_t* word);  // *word differs now
bool host_crashed();               // has a worker died in a job?
