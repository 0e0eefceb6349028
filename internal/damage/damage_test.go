package damage

import (
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestFindingIsOneLine(t *testing.T) {
	for _, tc := range []struct {
		f    Finding
		want string
	}{
		{
			Finding{Severity: Lost, File: "topics/a-0.x/0.log", Position: 4096, Length: 61, Log: "a-0.x", Offsets: Range{7, 9}, What: "checksum", Do: "repair"},
			"LOST  topics/a-0.x/0.log at 4096 (61 bytes), offsets 7 to 8 of a-0.x: checksum; repair",
		},
		{Finding{Severity: Heals, File: "0.index", What: "short"}, "heals 0.index: short"},
		{Finding{Severity: Lost, File: "wal-0000.log", Position: 8192, LSN: 77, What: "torn"}, "LOST  wal-0000.log at 8192, LSN 77: torn"},
	} {
		if got := tc.f.String(); got != tc.want {
			t.Errorf("got  %q\nwant %q", got, tc.want)
		}
	}
}

func TestRange(t *testing.T) {
	for _, tc := range []struct {
		r     Range
		text  string
		empty bool
	}{
		{Range{}, "none", true},
		{Range{3, 3}, "none", true},
		{Range{3, 4}, "3", false},
		{Range{3, 6}, "3 to 5", false},
		{Range{3, Unknown}, "3 and up", false},
	} {
		if tc.r.String() != tc.text || tc.r.Empty() != tc.empty {
			t.Errorf("%+v: %q, empty %v; want %q, %v", tc.r, tc.r.String(), tc.r.Empty(), tc.text, tc.empty)
		}
	}
}
