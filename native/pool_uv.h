// The process-wide fork-join pool on libuv threads.
#pragma once

// Makes sure that threads are there (the caller's own counts as one); answers how many there are, at most `threads`.
int pool_reserve(int threads);
// Ends every thread of the pool. The next pool_reserve starts them again.
void pool_stop();
