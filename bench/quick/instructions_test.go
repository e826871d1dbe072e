//go:build !race

package quick

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strconv"
	"unsafe"

	"golang.org/x/sys/unix"
)

// errInstructions says why instructions are not counted; nil if they are.
var errInstructions error

// countInstructions begins to count the instructions of this process in user mode and returns what ends it. A counter belongs to a thread and
// to what that thread starts, so that there is one for each thread of now. Where the kernel or the machine does not let it, the count is 0.
func countInstructions() func() uint64 {
	threads, err := os.ReadDir("/proc/self/task")
	if err != nil {
		errInstructions = err
		return func() uint64 { return 0 }
	}
	attr := unix.PerfEventAttr{
		Type: unix.PERF_TYPE_HARDWARE, Config: unix.PERF_COUNT_HW_INSTRUCTIONS, Size: uint32(unsafe.Sizeof(unix.PerfEventAttr{})),
		Bits: unix.PerfBitInherit | unix.PerfBitExcludeKernel | unix.PerfBitExcludeHv,
	}
	var counters []int
	for _, thread := range threads {
		id, err := strconv.Atoi(thread.Name())
		if err != nil {
			continue // no thread
		}
		fd, err := unix.PerfEventOpen(&attr, id, -1, -1, unix.PERF_FLAG_FD_CLOEXEC)
		if err != nil && !errors.Is(err, unix.ESRCH) { // it may have ended
			errInstructions = fmt.Errorf("perf_event_open: %w", err)
			break
		}
		if err == nil {
			counters = append(counters, fd)
		}
	}
	return func() uint64 { return sum(counters) }
}

// sum reads and closes the counters.
func sum(counters []int) (total uint64) {
	for _, fd := range counters {
		var raw [8]byte
		n, err := unix.Read(fd, raw[:])
		if err = errors.Join(err, unix.Close(fd)); err == nil && n != len(raw) {
			err = fmt.Errorf("%d bytes, expected %d", n, len(raw))
		}
		if err != nil {
			errInstructions = fmt.Errorf("read a counter: %w", err)
		}
		total += binary.NativeEndian.Uint64(raw[:])
	}
	if errInstructions != nil {
		return 0
	}
	return total
}
