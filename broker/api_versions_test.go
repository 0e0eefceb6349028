package broker

import (
	"testing"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

func TestApiVersionsComesFromTheDispatchTable(t *testing.T) {
	w := dial(t, startNode(t, t.TempDir(), nil))
	for version := int16(0); version <= 4; version++ {
		req := kmsg.NewPtrApiVersionsRequest()
		req.Version, req.ClientSoftwareName, req.ClientSoftwareVersion = version, "apache-kafka-java", "4.1.0"
		resp := w.do(req).(*kmsg.ApiVersionsResponse)
		if resp.ErrorCode != 0 || len(resp.ApiKeys) != len(apis) {
			t.Fatalf("v%d: error %d, %d apis, want %d", version, resp.ErrorCode, len(resp.ApiKeys), len(apis))
		}
		for _, key := range resp.ApiKeys {
			a := apisByKey[key.ApiKey]
			if a == nil || key.MaxVersion != a.max {
				t.Errorf("v%d advertises %+v, table %+v", version, key, a)
				continue
			}
			want := a.min
			if key.ApiKey == produceKey {
				want = 0 // KAFKA-18659
			}
			if key.MinVersion != want {
				t.Errorf("v%d: api %d from version %d, want %d", version, key.ApiKey, key.MinVersion, want)
			}
		}
	}
}

func TestApiVersionsChecksTheClientsSoftware(t *testing.T) {
	w := dial(t, startNode(t, t.TempDir(), nil))
	for _, tt := range []struct {
		name, version string
		want          int16
	}{
		{"kgo", "unknown", 0},
		{"a", "1", 0},
		{"apache-kafka-java", "3.9.0-SNAPSHOT", 0},
		{"", "1", kerr.InvalidRequest.Code},
		{"kgo", "", kerr.InvalidRequest.Code},
		{"-kgo", "1", kerr.InvalidRequest.Code},
		{"kgo", "1.", kerr.InvalidRequest.Code},
		{"k go", "1", kerr.InvalidRequest.Code},
	} {
		req := kmsg.NewPtrApiVersionsRequest()
		req.Version, req.ClientSoftwareName, req.ClientSoftwareVersion = 3, tt.name, tt.version
		if resp := w.do(req).(*kmsg.ApiVersionsResponse); resp.ErrorCode != tt.want {
			t.Errorf("%q %q: error %d, want %d", tt.name, tt.version, resp.ErrorCode, tt.want)
		}
	}
}

// TestEveryAdvertisedVersionIsDecoded: an API in the table without a schema in netproto would close connections.
func TestEveryAdvertisedVersionIsDecoded(t *testing.T) {
	r := startNode(t, t.TempDir(), nil)
	for i := range apis {
		a := &apis[i]
		for version := a.min; version <= a.max; version++ {
			req := kmsg.RequestForKey(a.key)
			req.SetVersion(version)
			switch req := req.(type) {
			case *kmsg.ApiVersionsRequest:
				req.ClientSoftwareName, req.ClientSoftwareVersion = "a", "1"
			case *kmsg.ProduceRequest:
				req.Acks = 1 // without acknowledgement there is no answer
			}
			dial(t, r).do(req)
		}
	}
}
