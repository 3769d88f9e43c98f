package session

import "strings"

// maxNesting bounds the JSON that is read from outside. Parsers recurse: a
// megabyte of brackets would take 192 MiB of stack.
const maxNesting = 64

// tooDeep reports whether a JSON text nests deeper than maxNesting. It is asked
// before any parser sees the text, which need not be JSON.
func tooDeep(text string) bool {
	depth := 0
	for i := 0; i < len(text); i++ {
		switch text[i] {
		case '"':
			i = endOfString(text, i+1)
		case '[', '{':
			if depth++; depth > maxNesting {
				return true
			}
		case ']', '}':
			depth--
		}
	}
	return false
}

// endOfString returns where the JSON string that begins at from ends.
func endOfString(text string, from int) int {
	for i := from; i < len(text); i++ {
		next := strings.IndexAny(text[i:], `"\`)
		if next < 0 {
			break
		}
		if i += next; text[i] == '"' {
			return i
		}
		i++ // past what is escaped
	}
	return len(text)
}
