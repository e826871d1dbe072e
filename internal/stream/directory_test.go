package stream

import (
	"maps"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// TestDirectoryEqualsASet puts numbers under few hashes, which lie together and at the end of the array, where a search goes round.
func TestDirectoryEqualsASet(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var d directory
		in := map[uint32]uint32{} // number → hash
		for step := range rapid.IntRange(1, 200).Draw(t, "steps") {
			switch rapid.IntRange(0, 2).Draw(t, "operation") {
			case 0:
				if len(in) > 0 {
					number := rapid.SampledFrom(slices.Sorted(maps.Keys(in))).Draw(t, "removed")
					d.remove(in[number], number)
					delete(in, number)
				}
			default:
				number := uint32(step)
				in[number] = ^uint32(0) - 8 + rapid.Uint32Range(0, 16).Draw(t, "hash")
				d.insert(in[number], number)
			}
			for number, hash := range in {
				if !holds(&d, hash, number) {
					t.Fatalf("the directory does not find %d under %x", number, hash)
				}
			}
			if all := slices.Sorted(d.all); !slices.Equal(all, slices.Sorted(maps.Keys(in))) || d.used != len(in) {
				t.Fatalf("the directory has %v, %d in all; expected %v", all, d.used, in)
			}
		}
	})
}

func holds(d *directory, hash, number uint32) bool {
	for i := d.first(hash); d.places[i].ref != 0; i = d.next(i) {
		if d.places[i] == (place{hash: hash, ref: number + 1}) {
			return true
		}
	}
	return false
}
