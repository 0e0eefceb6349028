package verify

import (
	"encoding/binary"
	"fmt"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kmsg"

	"weir/test/internal/wire"
)

// DumpBatches lists the headers of the record batches around an offset, to tell after a failure who wrote what.
func DumpBatches(tb testing.TB, addr, topic string, partition int32, offset int64) string {
	tb.Helper()
	conn := wire.Dial(tb, addr)
	var text strings.Builder
	for at := max(offset-200, 0); at <= offset+20; {
		req := kmsg.NewPtrFetchRequest()
		req.SetVersion(12)
		req.MaxWaitMillis, req.MaxBytes, req.SessionEpoch = 100, 64<<20, -1
		rt := kmsg.NewFetchRequestTopic()
		rt.Topic = topic
		rp := kmsg.NewFetchRequestTopicPartition()
		rp.Partition, rp.FetchOffset, rp.PartitionMaxBytes = partition, at, 16<<20
		rt.Partitions = append(rt.Partitions, rp)
		req.Topics = append(req.Topics, rt)
		resp, err := conn.Do(req)
		if err != nil {
			return text.String() + "fetch: " + err.Error()
		}
		fetched := resp.(*kmsg.FetchResponse)
		if len(fetched.Topics) != 1 || len(fetched.Topics[0].Partitions) != 1 {
			return text.String() + fmt.Sprintf("the response lacks the partition: %+v\n", fetched)
		}
		p := fetched.Topics[0].Partitions[0]
		if p.ErrorCode != 0 || len(p.RecordBatches) == 0 {
			return text.String() + fmt.Sprintf("end: error code %d, high watermark %d\n", p.ErrorCode, p.HighWatermark)
		}
		for b := p.RecordBatches; len(b) >= 61; {
			n := int(binary.BigEndian.Uint32(b[8:])) + 12
			if n > len(b) {
				break
			}
			base, last := int64(binary.BigEndian.Uint64(b)), int64(binary.BigEndian.Uint32(b[23:]))
			fmt.Fprintf(&text, "offsets %d-%d, producer %d epoch %d, sequence %d-%d, %d bytes\n", base, base+last,
				int64(binary.BigEndian.Uint64(b[43:])), int16(binary.BigEndian.Uint16(b[51:])),
				int32(binary.BigEndian.Uint32(b[53:])), int64(int32(binary.BigEndian.Uint32(b[53:])))+last, n)
			at, b = base+last+1, b[n:]
		}
	}
	return text.String()
}
