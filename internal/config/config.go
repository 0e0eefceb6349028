// Package config is the table of everything that can be configured: broker keys and topic keys, with their
// types, defaults, meaning and limits. Keys that Kafka has keep Kafka's name, default and meaning; Weir's own
// keys are marked so. A value that this version cannot honour is refused, never silently accepted.
//
// The table is the only place a key is spelled: the typed structs Broker and Topic are filled from it, the flags
// and WEIR_ variables derive from it, DescribeConfigs lists it, and docs/configuration.md is generated from it.
package config

import (
	"errors"
	"fmt"
	"math"
	"time"
)

var (
	// ErrUnknownKey: there is no such key. The message names the nearest one.
	ErrUnknownKey = errors.New("unknown configuration key")
	// ErrBadValue: the value does not parse or is out of range. The message says what was expected.
	ErrBadValue = errors.New("bad configuration value")
	// ErrUnsupported: Kafka has this value but this version of Weir cannot honour it.
	ErrUnsupported = errors.New("configuration value is not supported by this version of Weir")
)

// Type is Kafka's name for the type of a key's value, in lower case.
type Type string

// The types of values.
const (
	Boolean Type = "boolean"
	String  Type = "string"
	Int     Type = "int"  // 32 bits
	Long    Type = "long" // 64 bits
	Double  Type = "double"
	List    Type = "list" // comma-separated
)

// Def describes one key.
type Def struct {
	Name    string
	Type    Type
	Default string
	// Null: the key has no default (Kafka's null); what happens then is said in Doc.
	Null bool
	Doc  string
	// Expect says in words what Validate accepts: "at least 1". Empty: any value of the type.
	Expect string
	// Only, if set, says why this version accepts no other values than Expect, although Kafka does.
	Only string
	// Validate checks a value that may or may not parse; nil error means that it can be used. It returns an error that wraps
	// ErrBadValue or ErrUnsupported and says what was expected.
	Validate func(value string) error
	// Synonyms are the keys that provide the value when this one is not set, in order: for a topic key the broker key.
	Synonyms []string
	// SameAs names the key of which this one is another spelling (Kafka's name for a flag of Weir's).
	SameAs string
	// ReadOnly: fixed at start. Every broker key is, so far.
	ReadOnly bool
	// Sensitive: the value must never be shown or logged.
	Sensitive bool
	// Weir: a key that Kafka does not have.
	Weir bool
}

// Millis converts milliseconds to a Duration; what does not fit (Kafka's "for ever" is 2^63-1) becomes the longest
// Duration there is. Negative values, which Kafka uses for "no limit", stay negative.
func Millis(ms int64) time.Duration {
	if ms > math.MaxInt64/int64(time.Millisecond) {
		return math.MaxInt64
	}
	if ms < math.MinInt64/int64(time.Millisecond) {
		return math.MinInt64
	}
	return time.Duration(ms) * time.Millisecond
}

// UnknownKeyError is ErrUnknownKey with the key, the nearest known one, and where the key came from.
type UnknownKeyError struct {
	Key     string
	Nearest string // may be empty
	Origin  string // may be empty
}

func (e *UnknownKeyError) Error() string {
	s := fmt.Sprintf("unknown configuration key %q", e.Key)
	if e.Origin != "" {
		s += " (" + e.Origin + ")"
	}
	if e.Nearest != "" {
		s += fmt.Sprintf("; did you mean %q?", e.Nearest)
	}
	return s
}

// Unwrap makes errors.Is(err, ErrUnknownKey) true.
func (e *UnknownKeyError) Unwrap() error { return ErrUnknownKey }

// ValueError says which key has a value that cannot be used, and what was expected. It unwraps to ErrBadValue
// or ErrUnsupported.
type ValueError struct {
	Key      string
	Value    string
	Expected string // completes "expected ..."
	Why      string // for a value that is valid in Kafka but not supported here
	Origin   string // may be empty
}

func (e *ValueError) Error() string {
	s := fmt.Sprintf("%s = %q", e.Key, e.Value)
	if e.Origin != "" {
		s += " (" + e.Origin + ")"
	}
	if e.Why != "" {
		s += ": not supported: " + e.Why
	}
	if e.Expected != "" {
		s += ": expected " + e.Expected
	}
	return s
}

// Unwrap makes errors.Is work with ErrBadValue and ErrUnsupported.
func (e *ValueError) Unwrap() error {
	if e.Why != "" {
		return ErrUnsupported
	}
	return ErrBadValue
}

//go:generate go test . -run TestDocumentation -update
