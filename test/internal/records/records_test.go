package records

import "testing"

func TestSourceIsDeterministicAndDistinct(t *testing.T) {
	a := &Source{Seed: 1, ValueMin: 10, ValueMax: 200, Timestamp: 1000}
	b := &Source{Seed: 1, ValueMin: 10, ValueMax: 200, Timestamp: 1000}
	for i := range int64(1000) {
		if diff := Diff(a.At(3, i), b.At(3, i)); diff != "" {
			t.Fatalf("record %d differs between two sources of one seed: %s", i, diff)
		}
	}
	if Diff(a.At(3, 7), b.At(3, 8)) == "" || Diff(a.At(3, 7), b.At(2, 7)) == "" {
		t.Fatal("different records compare equal")
	}
}

func TestDiffTellsNilFromEmpty(t *testing.T) {
	if Diff(&Record{Key: nil}, &Record{Key: []byte{}}) == "" {
		t.Fatal("a null key compares equal to an empty one")
	}
	if Diff(&Record{Headers: []Header{{"a", nil}}}, &Record{Headers: []Header{{"a", []byte{}}}}) == "" {
		t.Fatal("a null header value compares equal to an empty one")
	}
}

func TestTextHasNoDelimiters(t *testing.T) {
	s := &Source{Seed: 9, Text: true, ValueMin: 100, ValueMax: 500}
	for i := range int64(2000) {
		for _, c := range s.At(0, i).Value {
			if c < ' ' || c > '~' {
				t.Fatalf("record %d holds byte %#x", i, c)
			}
		}
	}
}
