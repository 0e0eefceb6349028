package netproto

import (
	"math/rand/v2"
	"reflect"
	"strings"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// fillRandom fills a kmsg message with small random values: every array has elements, every pointer points.
func fillRandom(rng *rand.Rand, msg any) {
	fillValue(rng, reflect.ValueOf(msg).Elem())
}

func fillValue(rng *rand.Rand, v reflect.Value) {
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			if name := v.Type().Field(i).Name; name != "Version" && name != "UnknownTags" {
				fillValue(rng, v.Field(i))
			}
		}
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fillValue(rng, v.Elem())
	case reflect.Slice:
		n := 1 + rng.IntN(3)
		v.Set(reflect.MakeSlice(v.Type(), n, n))
		for i := range n {
			fillValue(rng, v.Index(i))
		}
	case reflect.Array:
		for i := range v.Len() {
			fillValue(rng, v.Index(i))
		}
	case reflect.String:
		v.SetString(strings.Repeat("x", rng.IntN(200)))
	case reflect.Bool:
		v.SetBool(rng.IntN(2) == 0)
	case reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		v.SetInt(rng.Int64N(100) - 10)
	case reflect.Uint8:
		v.SetUint(uint64(rng.IntN(256)))
	}
}

// unknownTags are tags that no version knows.
func unknownTags() (t kmsg.Tags) {
	t.Set(77, []byte("unknown"))
	t.Set(300, nil)
	return t
}

// tagEverything puts unknown tags into every struct of a message.
func tagEverything(v reflect.Value) {
	switch v.Kind() {
	case reflect.Pointer:
		if !v.IsNil() {
			tagEverything(v.Elem())
		}
	case reflect.Slice:
		for i := range v.Len() {
			tagEverything(v.Index(i))
		}
	case reflect.Struct:
		if v.Type() == reflect.TypeFor[kmsg.Tags]() {
			return
		}
		for i := range v.NumField() {
			if v.Type().Field(i).Name == "UnknownTags" {
				v.Field(i).Set(reflect.ValueOf(unknownTags()))
				continue
			}
			tagEverything(v.Field(i))
		}
	}
}
