// go_cgo [SECONDS]: burns in Go, then in C called from Go, in turns. Go keeps goroutines on stacks of their own, and
// calls C on the thread's.
// True chains: runtime.goexit, runtime.main, main.main, main.levelOne, main.levelTwo, main.hotGo;
//
//	…, runtime.asmcgocall, _cgo_…_Cfunc_hot_c, hot_c.
package main

/*
#include <time.h>

static double cpu_seconds(void) {
	struct timespec now;
	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
	return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

__attribute__((noipa, used)) void hot_c(double seconds) {
	double end = cpu_seconds() + seconds;
	while (cpu_seconds() < end) {
		for (volatile unsigned long i = 0; i < 20000; i++) {
		}
	}
}
*/
import "C"

import (
	"os"
	"runtime"
	"strconv"
	"time"
)

var sink uint64

//go:noinline
func hotGo(duration time.Duration) {
	for begin := time.Now(); time.Since(begin) < duration; {
		for i := uint64(0); i < 20000; i++ {
			sink += i ^ (sink >> 3)
		}
	}
}

//go:noinline
func levelTwo(duration time.Duration) {
	hotGo(duration)
	C.hot_c(C.double(duration.Seconds()))
	sink++
}

//go:noinline
func levelOne(duration time.Duration) {
	levelTwo(duration)
	sink++
}

func main() {
	seconds := 1.5
	if len(os.Args) > 1 {
		if parsed, err := strconv.ParseFloat(os.Args[1], 64); err == nil {
			seconds = parsed
		}
	}
	runtime.LockOSThread()
	end := time.Now().Add(time.Duration(seconds * float64(time.Second)))
	for time.Now().Before(end) {
		levelOne(50 * time.Millisecond)
	}
}
