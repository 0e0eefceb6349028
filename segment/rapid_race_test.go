//go:build race

package segment

import "flag"

// The race detector makes each check of a property ten times slower. A number given on the command line wins.
func init() {
	if err := flag.Set("rapid.checks", "15"); err != nil {
		panic(err)
	}
}
