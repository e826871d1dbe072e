package binary

import (
	"fmt"
	"os"
	"runtime"
)

// releases are the archives that are fetched when only a major version is asked for, newest first.
var releases = map[int]string{18: "18.4.0", 17: "17.11.0", 16: "16.15.0", 15: "15.19.0", 14: "14.23.0", 13: "13.23.0"}

// pinned holds the SHA-256 of archives as they were published when this was written: an archive that was changed
// later, together with its published checksum, is refused.
var pinned = map[string]string{
	"linux-amd64/13.23.0":   "0713b8a6dbe13440718ea789eefca6ae562b004bc0541d9c21d20300529c1db2",
	"linux-amd64/14.23.0":   "d041b87dd72016f2baf93bca54e91d3c85c2b8132bbf86ad82056d6b24b353ce",
	"linux-amd64/15.19.0":   "95f0b66fe72d4ca66c815773c44cb1196ea38552463e89a35f18114b3ed1565f",
	"linux-amd64/16.15.0":   "653abc065c682b85d3da50168fb95dc524bd85426cdec9ce3695a550ef431df2",
	"linux-amd64/17.11.0":   "0dd7b72b6f335b8ecfb355fa24c5781e8a93edd09880bb77eb52ebbf29b3e96d",
	"linux-amd64/18.4.0":    "401d4e69baba9072d3772607710df0d47b39a7632c6b01b2a5f5d85a9514e212",
	"linux-arm64v8/14.23.0": "a55b93f67051a602be033b298461709f88789dccee925236f2fb5a4eaf9dd526",
	"linux-arm64v8/15.19.0": "95baf4bd4af31b91b3050118df59388ed0064756b556b850669e0300aa7b9911",
	"linux-arm64v8/16.15.0": "f846a9989d686b7977d6eca9bc9d8b2b69e3f70c7eb60e032197d9c574a6136c",
	"linux-arm64v8/17.11.0": "8b042e0ea418b1927d95399207950da0734d27fe01e29503ade3bdc464ad4c2b",
	"linux-arm64v8/18.4.0":  "a9ec284923b9a7d2db41509bfb88c3d0eeb9f4aa5e2b29ea0aac5e8dbaf4c335",
}

// platform names this machine as the archives do.
func platform(goos, arch string, musl bool) (string, error) {
	archs := map[string]string{"amd64": "amd64", "arm64": "arm64v8", "386": "i386", "ppc64le": "ppc64le"}
	name, ok := archs[arch]
	if !ok || (goos != "linux" && goos != "darwin") {
		return "", fmt.Errorf("no PostgreSQL archives are published for %s/%s: install PostgreSQL and name its folder", goos, arch)
	}
	if goos == "linux" && musl {
		name += "-alpine"
	}
	return goos + "-" + name, nil
}

func thisPlatform() (string, error) {
	_, err := os.Stat("/etc/alpine-release")
	return platform(runtime.GOOS, runtime.GOARCH, err == nil)
}
