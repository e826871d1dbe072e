package pebblestore_test

import "math/rand/v2"

func rngOf(seed uint64) *rand.Rand { return rand.New(rand.NewPCG(seed, 1)) }
