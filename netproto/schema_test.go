package netproto

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"runtime"
	"testing"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// TestSchemasAgreeWithKmsg encodes random requests with kmsg, in every version, and wants the schema to accept exactly them: not one byte
// less, not one more.
func TestSchemasAgreeWithKmsg(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for key := range requestSchemas {
		last := kmsg.RequestForKey(key).MaxVersion()
		if key == keyApiVersions {
			last = 4 // kmsg knows a version that Kafka does not have yet
		}
		for version := int16(0); version <= last; version++ {
			t.Run(fmt.Sprintf("%s v%d", APIName(key), version), func(t *testing.T) {
				for round := range 20 {
					req := kmsg.RequestForKey(key)
					req.SetVersion(version)
					fillRandom(rng, req)
					req.SetVersion(version)
					if round%2 == 1 && req.IsFlexible() {
						tagEverything(reflect.ValueOf(req))
					}
					checkRequest(t, key, version, req.AppendTo(nil))
				}
			})
		}
	}
}

func checkRequest(t *testing.T, key, version int16, body []byte) {
	t.Helper()
	got, err := decodeBody(key, version, body)
	if err != nil {
		t.Fatalf("%x: %v", body, err)
	}
	if again := got.AppendTo(nil); !bytes.Equal(again, body) {
		t.Fatalf("decoded and encoded again:\n%x, want\n%x", again, body)
	}
	for n := range body {
		if _, err := decodeBody(key, version, body[:n]); !errors.Is(err, ErrMalformed) {
			t.Fatalf("%d of %d bytes: error %v, want ErrMalformed", n, len(body), err)
		}
	}
	if _, err := decodeBody(key, version, append(bytes.Clone(body), 0)); !errors.Is(err, ErrMalformed) {
		t.Fatalf("a byte too many: error %v, want ErrMalformed", err)
	}
}

func TestDecodeKmsgAllocatesNothingForLies(t *testing.T) {
	huge := binary.AppendUvarint(nil, 1<<32-1)
	bodies := map[string]struct {
		key, version int16
		body         []byte
	}{
		"plain count":         {3, 1, []byte{0x7f, 0xff, 0xff, 0xff}},
		"negative count":      {3, 1, []byte{0x80, 0, 0, 0}},
		"compact count":       {3, 12, huge},
		"tags":                {22, 2, append([]byte{0, 0, 0, 0, 1}, huge...)},
		"tag size":            {22, 2, append([]byte{0, 0, 0, 0, 1, 1, 0}, huge...)},
		"string":              {22, 2, append(bytes.Clone(huge), 0, 0, 0, 0, 0)},
		"varint":              {22, 2, bytes.Repeat([]byte{0xff}, 10)},
		"null array":          {42, 2, []byte{0, 0}},
		"null string":         {47, 0, []byte{0xff, 0xff, 0, 0, 0, 0}},
		"too many elements":   {42, 2, append(binary.AppendUvarint(nil, elementsMax+2), make([]byte, 2*elementsMax)...)},
		"elements bigger":     {19, 5, append(binary.AppendUvarint(nil, 1<<20), make([]byte, 1<<20)...)},
		"unknown version":     {3, 99, nil},
		"api without decoder": {5, 0, nil},
	}
	for name, b := range bodies {
		t.Run(name, func(t *testing.T) {
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			_, err := decodeBody(b.key, b.version, b.body)
			runtime.ReadMemStats(&after)
			if !errors.Is(err, ErrMalformed) && !errors.Is(err, ErrUnsupported) {
				t.Fatalf("error %v", err)
			}
			if n := after.TotalAlloc - before.TotalAlloc; n > 64<<10 {
				t.Fatalf("%d bytes allocated to refuse %d", n, len(b.body))
			}
		})
	}
}

// TestDecodedBytesDoNotReferToTheFrame: a group keeps what JoinGroup brought long after the frame's buffer is somebody else's.
func TestDecodedBytesDoNotReferToTheFrame(t *testing.T) {
	for key := range requestSchemas {
		req := kmsg.RequestForKey(key)
		version := req.MaxVersion()
		if key == keyApiVersions {
			version = 4
		}
		fillRandom(rand.New(rand.NewPCG(3, 4)), req)
		req.SetVersion(version)
		body := req.AppendTo(nil)
		want := bytes.Clone(body)
		got, err := decodeBody(key, version, body)
		if err != nil {
			t.Fatal(err)
		}
		clear(body)
		if again := got.AppendTo(nil); !bytes.Equal(again, want) {
			t.Errorf("%s v%d changed with its frame", APIName(key), version)
		}
	}
}

func FuzzDecodeKmsg(f *testing.F) {
	rng := rand.New(rand.NewPCG(5, 6))
	for key := range requestSchemas {
		req := kmsg.RequestForKey(key)
		for version := int16(0); version <= req.MaxVersion(); version++ {
			fillRandom(rng, req)
			req.SetVersion(version)
			f.Add(key, version, req.AppendTo(nil))
		}
	}
	f.Fuzz(func(t *testing.T, key, version int16, body []byte) {
		req, err := decodeBody(key, version, body)
		if err != nil {
			if !errors.Is(err, ErrMalformed) && !errors.Is(err, ErrUnsupported) {
				t.Fatalf("untyped error %v", err)
			}
			return
		}
		req.AppendTo(nil)
	})
}
