package redistest

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"time"
)

const commandTimeout = 10 * time.Second

// do runs one command, as the given user if there is one.
func do(addr, user, password string, args []string) (string, error) {
	conn, err := net.DialTimeout("tcp", addr, commandTimeout)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(commandTimeout)); err != nil {
		return "", err
	}
	replies := bufio.NewReader(conn)
	if user != "" {
		if _, err := roundTrip(conn, replies, []string{"AUTH", user, password}); err != nil {
			return "", err
		}
	}
	return roundTrip(conn, replies, args)
}

func roundTrip(w io.Writer, r *bufio.Reader, args []string) (string, error) {
	var b strings.Builder
	fmt.Fprintf(&b, "*%d\r\n", len(args))
	for _, arg := range args {
		fmt.Fprintf(&b, "$%d\r\n%s\r\n", len(arg), arg)
	}
	if _, err := io.WriteString(w, b.String()); err != nil {
		return "", err
	}
	return readReply(r)
}

func readReply(r *bufio.Reader) (string, error) {
	line, err := r.ReadString('\n')
	if err != nil {
		return "", err
	}
	line = strings.TrimSuffix(line, "\r\n")
	if line == "" {
		return "", errors.New("empty reply line")
	}
	kind, rest := line[0], line[1:]
	switch kind {
	case '+', ':':
		return rest, nil
	case '-':
		return "", errors.New(rest)
	case '$', '*':
	default:
		return "", fmt.Errorf("reply of unknown kind %q", line)
	}
	n, err := strconv.Atoi(rest)
	if err != nil {
		return "", err
	}
	if n < 0 {
		return "", nil // nil
	}
	if kind == '*' {
		return readArray(r, n)
	}
	bulk := make([]byte, n+2)
	if _, err := io.ReadFull(r, bulk); err != nil {
		return "", err
	}
	return string(bulk[:n]), nil
}

// readArray puts each element on a line.
func readArray(r *bufio.Reader, n int) (string, error) {
	elements := make([]string, n)
	for i := range elements {
		element, err := readReply(r)
		if err != nil {
			return "", err
		}
		elements[i] = element
	}
	return strings.Join(elements, "\n"), nil
}
