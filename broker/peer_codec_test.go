package broker

import (
	"bytes"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"
)

func FuzzForwarded(f *testing.F) {
	req := createRequest(7, topicSpec("t", 1, 1))
	good := forwarded{from: origin{"127.0.0.1:5", "client"}, wait: 3 * time.Second, key: 19, version: 7, body: req.AppendTo(nil)}
	f.Add(good.append(nil))
	f.Add((&forwarded{}).append(nil))
	f.Add([]byte{0, 0, 0, 1, 0xff})
	f.Fuzz(func(t *testing.T, b []byte) {
		var got forwarded
		if got.parse(b) != nil {
			return
		}
		if again := got.append(nil); !bytes.Equal(again, b) && len(got.from.host) <= textMax && len(got.from.clientID) <= textMax {
			t.Errorf("%x was read as %+v, which is written %x", b, got, again)
		}
	})
}

func FuzzForwardedAnswer(f *testing.F) {
	req := createRequest(7)
	resp := kmsg.NewPtrCreateTopicsResponse()
	resp.SetVersion(7)
	f.Add(resp.AppendTo(append([]byte{forwardDone}, make([]byte, 8)...)))
	f.Add(forwardStatus(forwardNotController))
	f.Add([]byte{9})
	f.Fuzz(func(t *testing.T, b []byte) {
		got, _, err := forwardedAnswer(req, b)
		if (got == nil) != (err != nil) {
			t.Errorf("answer %v with error %v", got, err)
		}
		if err == nil && b[0] != forwardDone {
			t.Errorf("status %d passes for an answer", b[0])
		}
	})
}

func FuzzJoin(f *testing.F) {
	f.Add(joinRequest{node: 4, addr: "127.0.0.4:9", add: true}.append(nil))
	f.Add(joinAnswer{status: joinOther, controller: 2, addr: "h:1"}.append(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		var req joinRequest
		if req.parse(b) == nil {
			var again joinRequest
			if err := again.parse(req.append(nil)); err != nil || again != req {
				t.Errorf("%+v becomes %+v (%v)", req, again, err)
			}
		}
		var answer joinAnswer
		if answer.parse(b) == nil {
			var again joinAnswer
			if err := again.parse(answer.append(nil)); err != nil || again != answer {
				t.Errorf("%+v becomes %+v (%v)", answer, again, err)
			}
		}
	})
}
