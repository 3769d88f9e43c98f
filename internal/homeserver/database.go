package homeserver

import (
	"encoding/binary"
	"os"
	"path/filepath"
)

// makeDatabases makes the databases that are read and written most, empty and with a
// write-ahead log. Dendrite has no option for it, and without it readers lock out
// the writer: on a busy machine Dendrite then ends in a panic. The databases with
// several writers have to do without it, where they wait for each other.
func makeDatabases(dir string) error {
	for _, name := range []string{"roomserver.db", "syncapi.db"} {
		if err := os.WriteFile(filepath.Join(dir, name), emptyDatabase(), 0o600); err != nil {
			return err
		}
	}
	return nil
}

// emptyDatabase is one page of https://www.sqlite.org/fileformat.html.
func emptyDatabase() []byte {
	const pageSize = 4096
	page := make([]byte, pageSize)
	copy(page, "SQLite format 3\x00")
	binary.BigEndian.PutUint16(page[16:], pageSize)
	copy(page[18:], []byte{
		2, 2, // written and read with a write-ahead log
		0, 64, 32, 32, // fixed
	})
	binary.BigEndian.PutUint32(page[24:], 1) // changes
	binary.BigEndian.PutUint32(page[28:], 1) // pages
	binary.BigEndian.PutUint32(page[44:], 4) // schema format
	binary.BigEndian.PutUint32(page[56:], 1) // UTF-8
	binary.BigEndian.PutUint32(page[92:], 1) // the changes at which the number of pages was right
	page[100] = 13                           // a table's leaf, without cells
	binary.BigEndian.PutUint16(page[105:], pageSize)
	return page
}
