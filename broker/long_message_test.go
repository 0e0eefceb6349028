package broker

import (
	"errors"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// TestLongMessagesAreCut: between characters; others stay as they are.
func TestLongMessagesAreCut(t *testing.T) {
	for _, text := range []string{"", "short", strings.Repeat("x", messageMax)} {
		if got := *message(errors.New(text)); got != text {
			t.Errorf("%d bytes became %q", len(text), got)
		}
	}
	for shift := range 4 {
		text := strings.Repeat("x", shift) + strings.Repeat("\U0001F600", messageMax)
		got := *message(errors.New(text))
		kept, cut := strings.CutSuffix(got, " ...")
		if !cut || !utf8.ValidString(got) || !strings.HasPrefix(text, kept) || len(kept) > messageMax || len(kept) <= messageMax-utf8.UTFMax {
			t.Errorf("%d bytes became %d: %q", len(text), len(got), got)
		}
	}
}

// TestLongMessageIsReadable: an error that quotes more than a string of the protocol's older versions holds is answered in a form that can be read.
func TestLongMessageIsReadable(t *testing.T) {
	r := startNode(t, t.TempDir(), nil)
	name := strings.Repeat("x", 20000)
	resp := dial(t, r).do(createRequest(4, configured("t", name, "1", name, "2"))).(*kmsg.CreateTopicsResponse)
	if got := resp.Topics[0]; got.ErrorCode != kerr.InvalidConfig.Code || !strings.HasSuffix(str(got.ErrorMessage), "xxx ...") {
		t.Errorf("code %d, message of %d bytes, want INVALID_CONFIG and its beginning", got.ErrorCode, len(str(got.ErrorMessage)))
	}
}
