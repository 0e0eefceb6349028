package config

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
)

// rule limits the values of a key beyond its type. ok gets the parsed value: bool, string, int64, float64 or []string.
type rule struct {
	expect string // completes "expected ..."
	ok     func(v any) bool
	// why is set for rules that refuse what Kafka would accept, and says why.
	why string
}

// parse converts the text of a value to its type. The bool is false if it does not parse.
func parse(t Type, s string) (any, bool) {
	s = strings.TrimSpace(s)
	switch t {
	case Boolean:
		switch strings.ToLower(s) {
		case "true":
			return true, true
		case "false":
			return false, true
		}
		return nil, false
	case Int:
		v, err := strconv.ParseInt(s, 10, 32)
		return v, err == nil
	case Long:
		v, err := strconv.ParseInt(s, 10, 64)
		return v, err == nil
	case Double:
		v, err := strconv.ParseFloat(s, 64)
		return v, err == nil && !math.IsNaN(v) && !math.IsInf(v, 0)
	case List:
		list := []string{}
		for _, e := range strings.Split(s, ",") {
			if e = strings.TrimSpace(e); e != "" {
				list = append(list, e)
			}
		}
		return list, true
	}
	return s, true
}

// noun names the type in an error message.
func (t Type) noun() string {
	switch t {
	case Boolean:
		return "true or false"
	case Int:
		return "a whole number of 32 bits"
	case Long:
		return "a whole number of 64 bits"
	case Double:
		return "a number"
	case List:
		return "a comma-separated list"
	}
	return "a text"
}

// validator builds Def.Validate from the type and the rules.
func validator(name string, t Type, rules []rule) func(string) error {
	return func(s string) error {
		v, ok := parse(t, s)
		if !ok {
			return &ValueError{Key: name, Value: s, Expected: expectation(t, rules)}
		}
		for _, r := range rules {
			if !r.ok(v) {
				return &ValueError{Key: name, Value: s, Expected: r.expect, Why: r.why}
			}
		}
		return nil
	}
}

func expectation(t Type, rules []rule) string {
	for _, r := range rules {
		if r.why == "" {
			return r.expect
		}
	}
	return t.noun()
}

// limits fills Expect, Only and Validate from the rules. The first rule says what is expected, unless one refuses
// what Kafka would accept.
func (d *Def) limits(rules []rule) {
	d.Validate = validator(d.Name, d.Type, rules)
	for _, r := range rules {
		if r.why != "" {
			d.Expect, d.Only = r.expect, r.why
			return
		}
	}
	d.Expect = ""
	if len(rules) > 0 {
		d.Expect = rules[0].expect
	}
}

// store puts the parsed text of a valid value into the field that p points to.
func store(p any, t Type, s string) {
	v, ok := parse(t, s)
	if !ok {
		panic(fmt.Sprintf("BUG: config: storing %q, which is not %s", s, t.noun()))
	}
	switch p := p.(type) {
	case *bool:
		*p = v.(bool)
	case *string:
		*p = v.(string)
	case *int:
		*p = int(v.(int64))
	case *int32:
		*p = int32(v.(int64))
	case *int64:
		*p = v.(int64)
	case *float64:
		*p = v.(float64)
	case *[]string:
		*p = v.([]string)
	default:
		panic(fmt.Sprintf("BUG: config: no conversion from %s to %T", t, p))
	}
}

// text renders the field that p points to as a value that parse reads back.
func text(p any) string {
	switch p := p.(type) {
	case *bool:
		return strconv.FormatBool(*p)
	case *string:
		return *p
	case *int:
		return strconv.Itoa(*p)
	case *int32:
		return strconv.FormatInt(int64(*p), 10)
	case *int64:
		return strconv.FormatInt(*p, 10)
	case *float64:
		return strconv.FormatFloat(*p, 'g', -1, 64)
	case *[]string:
		return strings.Join(*p, ",")
	}
	panic(fmt.Sprintf("BUG: config: no text for %T", p))
}

func atLeast(n int64) rule {
	return rule{expect: fmt.Sprintf("at least %d", n), ok: func(v any) bool { return v.(int64) >= n }}
}

func between(lo, hi int64) rule {
	return rule{
		expect: fmt.Sprintf("a whole number from %d to %d", lo, hi),
		ok:     func(v any) bool { return v.(int64) >= lo && v.(int64) <= hi },
	}
}

func multipleOf(n int64) rule {
	return rule{expect: fmt.Sprintf("a multiple of %d", n), ok: func(v any) bool { return v.(int64)%n == 0 }}
}

func ratio() rule {
	return rule{expect: "a number from 0 to 1", ok: func(v any) bool { return v.(float64) >= 0 && v.(float64) <= 1 }}
}

func oneOf(words ...string) rule {
	return rule{
		expect: "one of " + strings.Join(words, ", "),
		ok:     func(v any) bool { return slices.Contains(words, v.(string)) },
	}
}

// each limits every element of a list; an empty list passes unless nonEmpty.
func each(nonEmpty bool, words ...string) rule {
	return rule{
		expect: "a list of " + strings.Join(words, ", "),
		ok: func(v any) bool {
			list := v.([]string)
			for _, e := range list {
				if !slices.Contains(words, e) {
					return false
				}
			}
			return len(list) > 0 || !nonEmpty
		},
	}
}

// only refuses what this version cannot honour: every value but the given ones.
func only(why string, values ...string) rule {
	return rule{
		expect: strings.Join(values, " or "),
		why:    why,
		ok: func(v any) bool {
			var s string
			switch v := v.(type) {
			case bool:
				s = strconv.FormatBool(v)
			case int64:
				s = strconv.FormatInt(v, 10)
			case float64:
				s = strconv.FormatFloat(v, 'g', -1, 64)
			case []string:
				s = strings.Join(v, ",")
			case string:
				s = v
			}
			return slices.Contains(values, s)
		},
	}
}
