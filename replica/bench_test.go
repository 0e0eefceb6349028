package replica

import (
	"sync"
	"testing"
	"time"

	"weir/internal/record"
	"weir/internal/vfs"
	"weir/raftmeta"
)

// BenchmarkAppend is the append path of a partition with one replica, 64 appends in flight, on a disk in memory: what replication costs those that do not replicate.
func BenchmarkAppend(b *testing.B) {
	n := openNodeOn(b, vfs.NewMem(), "/data", map[string]string{"io.engine": "portable"})
	defer n.close()
	n.propose(raftmeta.CreateTopic{Name: "t", Partitions: 1})
	p := n.ByName("t", 0)
	const flight = 64
	batches := make([]record.Batch, flight)
	for i := range batches {
		batches[i] = valueBatch(b, string(make([]byte, 100)))
	}
	slots := make(chan int, flight)
	for i := range flight {
		slots <- i
	}
	appends := make([]Append, flight)
	var done sync.WaitGroup
	b.SetBytes(int64(len(batches[0])))
	b.ReportAllocs()
	b.ResetTimer()
	for range b.N {
		i := <-slots
		if err := n.Reserve(len(batches[i]), time.Minute); err != nil {
			b.Fatal(err)
		}
		done.Add(1)
		appends[i] = Append{Batch: batches[i], Done: func(a *Append) {
			if a.Err != nil {
				b.Error(a.Err)
			}
			slots <- i
			done.Done()
		}}
		p.Append(&appends[i])
	}
	done.Wait()
}
