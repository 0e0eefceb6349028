// Package lockmeter has the locks of the hot paths: a Mutex and an RWMutex that are used like sync's, and that say for how long they were held
// and waited for. It proves one of the laws of the house: no I/O under a lock.
//
//	mu struct {
//		lockmeter.Mutex
//		...
//	}
//	x.mu.MeterBy(meter, lockmeter.Partition)
//
// The zero value, and MeterBy with a nil Meter, is a lock that is not measured.
//
// # What is measured
//
// Reading the clock costs more than taking a free lock, so not every hold of the locks that are taken per batch is measured:
//
//   - Every wait: whoever finds the lock taken. Who does not wait reads no clock.
//   - Every hold that begins with a wait, or while others wait.
//   - Of the other holds one in eight on average, at random distances (a fixed one could always meet the same step of a loop); it counts for eight. In the classes that
//     are not sampled, every hold.
//   - A hold that is not measured and that somebody comes to wait for: from that moment on. So no hold that keeps anybody waiting is missed, and it is reported
//     at least as long as it kept somebody waiting.
//
// What can be missed is a long hold that nobody noticed, seven times in eight, and not always the same one.
//
// Of an RWMutex the writers are measured as above; how long a reader holds it is not, but as long as a writer waits for readers counts as a hold.
package lockmeter
