package broker

import (
	"testing"

	"github.com/twmb/franz-go/pkg/kerr"

	"weir/netproto"
)

// TestForwardUnknownTopicID: brokers name topics by id among themselves. A client that names them by name, and may not know the code
// UNKNOWN_TOPIC_ID, hears of a topic that the leader does not know in its own terms.
func TestForwardUnknownTopicID(t *testing.T) {
	unknown := netproto.ProducePartitionResult{ErrorCode: kerr.UnknownTopicID.Code, BaseOffset: -1, LogAppendTimeMs: -1, LogStartOffset: -1}
	four, five := unknown, unknown
	four.Index, five.Index = 4, 5
	for _, tt := range []struct {
		version int16
		want    *kerr.Error
	}{
		{9, kerr.UnknownTopicOrPartition},
		{12, kerr.UnknownTopicOrPartition},
		{13, kerr.UnknownTopicID},
	} {
		f := heldForward()
		f.p.req.Version = tt.version
		f.done(response(&netproto.ProduceResponse{Topics: []netproto.ProduceTopicResult{
			{ID: [16]byte{1}, Partitions: []netproto.ProducePartitionResult{four, five}},
			{ID: [16]byte{2}, Partitions: []netproto.ProducePartitionResult{{BaseOffset: 1}}},
		}}), nil)
		for i, want := range []int16{tt.want.Code, tt.want.Code, 0} {
			if got := f.row(i).ErrorCode; got != want {
				t.Errorf("produce v%d, partition %d: code %d, want %d", tt.version, i, got, want)
			}
		}
	}
}
