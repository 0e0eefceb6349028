package netproto

import (
	"fmt"
	"strconv"
	"strings"
)

// elementsMax bounds the array elements of one request in total. What kmsg makes of an element is up to ~150 bytes, so this
// bounds what a request can make the broker allocate beyond its own size.
const elementsMax = 1 << 20

// tagsMax bounds the tags of one request in total: kmsg makes a map for each struct that has some. Clients send a handful.
const tagsMax = 4096

// schema describes the bytes of a request body, version by version, as far as it takes to walk over them. kmsg allocates arrays
// by the count it reads, and counts a stranger's tags up to 2^32 even when the bytes have ended; what was
// walked over first is known to be whole, exactly as long as the body, and within bounds.
//
// The text form, in wire order: i8 i16 i32 i64 bool uuid str bytes are primitives, []x is an array of primitives, {...} an array of
// structs; a prefix "3+" or "0-7" says in which versions a field exists, a suffix "?" that it may be null ("?2": since
// version 2). Flexible versions use compact lengths, and have tags after each struct and after the body.
type schema struct {
	fields   []field
	hasBytes bool // kmsg keeps views of the body for such a request
}

type kind uint8

const (
	kindFixed kind = iota
	kindString
	kindBytes
	kindArray  // of primitives: elem[0]
	kindStruct // array of structs: elem
)

type field struct {
	kind     kind
	size     int // kindFixed: bytes
	from, to int16
	nullFrom int16 // versions that may be null; -1: none
	elem     []field
	name     string // its text, for messages
}

// requestSchemas has every request that goes through kmsg.
var requestSchemas = map[int16]*schema{
	2:  mustSchema("i32 2+i8 {str {i32 4+i32 i64 0-0i32}} 10+i32"),                                // ListOffsets
	3:  mustSchema("{10+uuid str?10}?1 4+bool 8-10bool 8+bool"),                                   // Metadata
	8:  mustSchema("str 1+i32 1+str 7+str? 2-4i64 {0-9str 10+uuid {i32 i64 1-1i64 6+i32 str?}}"),  // OffsetCommit
	9:  mustSchema("0-7str 0-7{str []i32}?2 8+{str 9+str? 9+i32 {0-9str 10+uuid []i32}?} 7+bool"), // OffsetFetch
	10: mustSchema("0-3str 1+i8 4+[]str"),                                                         // FindCoordinator
	11: mustSchema("str i32 1+i32 str 5+str? str {str bytes} 8+str?"),                             // JoinGroup
	12: mustSchema("str i32 str 3+str?"),                                                          // Heartbeat
	13: mustSchema("str 0-2str 3+{str str? 5+str?}"),                                              // LeaveGroup
	14: mustSchema("str i32 str 3+str? 5+str? 5+str? {str bytes}"),                                // SyncGroup
	15: mustSchema("[]str 3+bool"),                                                                // DescribeGroups
	16: mustSchema("4+[]str 5+[]str"),                                                             // ListGroups
	18: mustSchema("3+str 3+str"),                                                                 // ApiVersions
	19: mustSchema("{str i32 i16 {i32 []i32} {str str?}} i32 1+bool"),                             // CreateTopics
	20: mustSchema("0-5[]str 6+{str? uuid} i32"),                                                  // DeleteTopics
	21: mustSchema("{str {i32 i64}} i32"),                                                         // DeleteRecords
	22: mustSchema("str? i32 3+i64 3+i16"),                                                        // InitProducerId
	23: mustSchema("3+i32 {str {i32 2+i32 i32}}"),                                                 // OffsetForLeaderEpoch
	32: mustSchema("{i8 str []str?} 1+bool 3+bool"),                                               // DescribeConfigs
	33: mustSchema("{i8 str {str str?}} bool"),                                                    // AlterConfigs
	35: mustSchema("{str []i32}?"),                                                                // DescribeLogDirs
	37: mustSchema("{str i32 {[]i32}?} i32 bool"),                                                 // CreatePartitions
	42: mustSchema("[]str"),                                                                       // DeleteGroups
	43: mustSchema("1+i8 {str []i32}? i32"),                                                       // ElectLeaders
	44: mustSchema("{i8 str {str i8 str?}} bool"),                                                 // IncrementalAlterConfigs
	45: mustSchema("i32 1+bool {str {i32 []i32?}}"),                                               // AlterPartitionReassignments
	46: mustSchema("i32 {str []i32}?"),                                                            // ListPartitionReassignments
	47: mustSchema("str {str {i32}}"),                                                             // OffsetDelete
	55: mustSchema("{str {i32}}"),                                                                 // DescribeQuorum
	56: mustSchema("i32 i64 {0-1str 2+uuid {i32 i32 0-2[]i32 3+{i32 i64} 1+i8 i32}}"),             // AlterPartition
	60: mustSchema("bool 1+i8 2+bool"),                                                            // DescribeCluster
	62: mustSchema("i32 str uuid {str str i16 i16} {str i16 i16} str? 1+bool 2+[]uuid 3+i64"),     // BrokerRegistration
	63: mustSchema("i32 i64 i64 bool bool"),                                                       // BrokerHeartbeat
	64: mustSchema("i32"),                                                                         // UnregisterBroker
	67: mustSchema("i32 i64"),                                                                     // AllocateProducerIds
	80: mustSchema("str? i32 i32 uuid {str str i16} 1+bool"),                                      // AddRaftVoter
	81: mustSchema("str? i32 uuid"),                                                               // RemoveRaftVoter
}

var fixedSizes = map[string]int{"i8": 1, "i16": 2, "i32": 4, "i64": 8, "bool": 1, "uuid": 16}

// mustSchema parses the text form. It panics on a bad one, which any test of the package finds.
func mustSchema(text string) *schema {
	s := &schema{}
	fields, rest := parseFields(text, s)
	if rest != "" {
		panic(fmt.Sprintf("BUG: netproto: schema %q: cannot read %q", text, rest))
	}
	s.fields = fields
	return s
}

func parseFields(text string, s *schema) (fields []field, rest string) {
	for {
		text = strings.TrimLeft(text, " ")
		if text == "" || text[0] == '}' {
			return fields, text
		}
		var f field
		f, text = parseField(text, s)
		fields = append(fields, f)
	}
}

func parseField(text string, s *schema) (f field, rest string) {
	f = field{to: 1<<15 - 1, nullFrom: -1}
	if text[0] >= '0' && text[0] <= '9' {
		f.from, text = leadingInt(text)
		if text[0] == '-' {
			f.to, text = leadingInt(text[1:])
		} else {
			text = strings.TrimPrefix(text, "+")
		}
	}
	if text[0] == '{' {
		f.kind, f.name = kindStruct, "array of structs"
		f.elem, text = parseFields(text[1:], s)
		text = strings.TrimPrefix(text, "}")
	} else {
		end := strings.IndexAny(text, " ?}")
		if end < 0 {
			end = len(text)
		}
		f.setPrimitive(text[:end], s)
		text = text[end:]
	}
	if strings.HasPrefix(text, "?") {
		f.nullFrom, text = leadingInt(text[1:])
	}
	return f, text
}

func (f *field) setPrimitive(name string, s *schema) {
	f.name = name
	switch size, fixed := fixedSizes[name]; {
	case fixed:
		f.kind, f.size = kindFixed, size
	case name == "str":
		f.kind = kindString
	case name == "bytes":
		f.kind = kindBytes
		s.hasBytes = true
	case strings.HasPrefix(name, "[]"):
		elem := field{to: 1<<15 - 1, nullFrom: -1}
		elem.setPrimitive(name[2:], s)
		f.kind, f.elem = kindArray, []field{elem}
	default:
		panic(fmt.Sprintf("BUG: netproto: schema type %q", name))
	}
}

// leadingInt reads the digits at the start of text; none is 0.
func leadingInt(text string) (int16, string) {
	n := 0
	for n < len(text) && text[n] >= '0' && text[n] <= '9' {
		n++
	}
	if n == 0 {
		return 0, text
	}
	v, err := strconv.ParseInt(text[:n], 10, 16)
	if err != nil {
		panic(fmt.Sprintf("BUG: netproto: schema version in %q: %v", text, err))
	}
	return int16(v), text[n:]
}

// check walks over a body and reports the first thing that is wrong with it.
func (s *schema) check(version int16, flexible bool, body []byte) error {
	w := walker{decoder: decoder{buf: body}, version: version, flexible: flexible, elementsLeft: elementsMax, tagsLeft: tagsMax}
	w.structure(s.fields)
	return w.finish()
}

type walker struct {
	decoder
	version      int16
	flexible     bool
	elementsLeft int
	tagsLeft     int
}

func (w *walker) structure(fields []field) {
	for i := range fields {
		if f := &fields[i]; w.version >= f.from && w.version <= f.to && w.err == nil {
			w.field(f)
		}
	}
	if w.flexible && w.err == nil {
		n := w.tags("tags")
		if w.tagsLeft -= n; w.tagsLeft < 0 {
			w.fail("tags", "more than %d in one request", tagsMax)
		}
		for ; n > 0 && w.err == nil; n-- {
			w.tag("tags")
		}
	}
}

func (w *walker) field(f *field) {
	nullable := f.nullFrom >= 0 && w.version >= f.nullFrom
	switch f.kind {
	case kindFixed:
		w.span(f.size, f.name)
	case kindString:
		if nullable {
			w.nullableString(w.flexible, f.name)
		} else {
			w.string(w.flexible, f.name)
		}
	case kindBytes:
		w.nullableBytes(w.flexible, f.name) // kmsg reads null as empty, as some clients want
	case kindArray, kindStruct:
		n := w.count(w.flexible, f.elementBytesMin(w.version, w.flexible), f.name)
		if n < 0 && !nullable {
			w.fail(f.name, "null where an array is required")
		}
		if w.elementsLeft -= max(n, 0); w.elementsLeft < 0 {
			w.fail(f.name, "more than %d array elements in one request", elementsMax)
		}
		for ; n > 0 && w.err == nil; n-- {
			if f.kind == kindArray {
				w.field(&f.elem[0])
			} else {
				w.structure(f.elem)
			}
		}
	}
}

// elementBytesMin is how few bytes an element of an array can have.
func (f *field) elementBytesMin(version int16, flexible bool) int {
	n := 0
	for i := range f.elem {
		e := &f.elem[i]
		if version < e.from || version > e.to {
			continue
		}
		switch {
		case e.kind == kindFixed:
			n += e.size
		case flexible:
			n++ // a compact length
		case e.kind == kindString:
			n += 2
		default:
			n += 4
		}
	}
	if flexible && f.kind == kindStruct {
		n++ // tags
	}
	return n
}
