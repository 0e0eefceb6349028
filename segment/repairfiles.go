package segment

import (
	"errors"
	"fmt"
	"io/fs"
	"path"

	"weir/internal/vfs"
)

// CheckpointPath is the name of the recovery points in a store's directory.
func CheckpointPath(dir string) string { return path.Join(dir, checkpointFile) }

// WriteCheckpoint replaces the recovery points of a data directory that no Store has open. What was there is set aside if it is damaged.
func WriteCheckpoint(fsys vfs.FS, dir string, points map[string]Checkpoint, aside func(name, as string)) error {
	name := CheckpointPath(dir)
	if _, err := InspectCheckpoint(fsys, dir); errors.Is(err, ErrCorrupt) {
		if err := SetAside(fsys, name, aside); err != nil {
			return err
		}
	}
	err := writeNew(fsys, name+tmpSuffix, func(f vfs.File) error {
		_, err := f.WriteAt(encodeCheckpoint(points), 0)
		return err
	})
	if err != nil {
		return err
	}
	if err := fsys.Rename(name+tmpSuffix, name); err != nil {
		return err
	}
	return fsys.SyncDir(dir)
}

// writeNew makes a file with what fill writes, synced.
func writeNew(fsys vfs.FS, name string, fill func(vfs.File) error) error {
	f, err := fsys.OpenFile(name, vfs.Create|vfs.Truncate)
	if err != nil {
		return err
	}
	if err = fill(f); err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

// SetAside renames a file or directory to the first free name of name.damaged, name.1.damaged, ...
func SetAside(fsys vfs.FS, name string, tell func(name, as string)) error {
	for i := 0; ; i++ {
		as := name + damagedSuffix
		if i > 0 {
			as = fmt.Sprintf("%s.%d%s", name, i, damagedSuffix)
		}
		_, err := fsys.Stat(as)
		if err == nil {
			continue
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if err := fsys.Rename(name, as); err != nil {
			return err
		}
		if tell != nil {
			tell(name, as)
		}
		return fsys.SyncDir(path.Dir(name))
	}
}
