// Package house holds the tests that keep the rules of the house: who may import whom, what every package and file must
// have, and which words must not appear. A rule stands here with its reason, so that breaking it is a decision.
package house
