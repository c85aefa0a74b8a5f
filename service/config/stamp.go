package config

import (
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/fetchgate/fetchgate/service/file"
)

// Stamp is how files look from outside.
type Stamp []look

// look is how one file looks; info is nil if it cannot be seen.
type look struct {
	// resolved is its name without symbolic links: what a link leads to can be
	// exchanged for a file of the same age and size.
	resolved string
	info     fs.FileInfo
}

// StampOf looks at files. It does not read them.
func StampOf(files []string) Stamp {
	s := make(Stamp, len(files))
	for i, name := range files {
		resolved, err := filepath.EvalSymlinks(name)
		if err != nil {
			continue
		}
		if info, err := os.Stat(resolved); err == nil {
			s[i] = look{resolved, info}
		}
	}
	return s
}

// Equal tells that s and t are of the same files, unchanged.
func (s Stamp) Equal(t Stamp) bool { return slices.EqualFunc(s, t, look.equal) }

func (l look) equal(o look) bool {
	if l.info == nil || o.info == nil {
		return l.info == nil && o.info == nil
	}
	return l.resolved == o.resolved && file.Unchanged(l.info, o.info)
}
