// Command mana-session is for operators of bots that use package session: it looks
// at the sessions on Redis, says why a user was logged out, and moves records to
// other keys or another prefix. See docs/cli.md.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"
	"syscall"

	"github.com/redis/go-redis/v9"
	"github.com/spf13/cobra"
	"golang.org/x/term"
)

func main() { os.Exit(process()) }

// process runs until it is done or interrupted; a second interrupt ends it at once.
func process() int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop)
	return run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
}

// run is the program, less the process around it.
func run(ctx context.Context, args []string, in io.Reader, out, errOut io.Writer) int {
	redis.SetLogger(silent{}) // what fails is said once, by this program
	a := &app{
		in: in, out: &checked{w: out}, errOut: errOut,
		asks: isTerminal(in), shows: isTerminal(errOut),
		color: isTerminal(out) && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb",
	}
	cmd := a.command()
	cmd.SetArgs(args)
	cmd.SetIn(in)
	cmd.SetOut(a.out)
	cmd.SetErr(errOut)
	sayNo(cmd) // which remembers where to print
	err := cmd.ExecuteContext(ctx)
	if err != nil && !a.started {
		// Cobra's advice has lines of its own; and it may not have come to --json.
		err = usage(errors.New(strings.Join(strings.Fields(err.Error()), " ")))
		a.json = a.json || asksForJSON(args)
	}
	if ctx.Err() != nil && exitCode(err) == exitStore {
		err = context.Canceled // and so was the connection
	}
	return a.end(err)
}

// asksForJSON looks for --json among arguments that are not in order.
func asksForJSON(args []string) bool {
	for _, arg := range args {
		switch arg {
		case "--":
			return false
		case "--json", "--json=true":
			return true
		}
	}
	return false
}

type silent struct{}

func (silent) Printf(context.Context, string, ...any) {}

// isTerminal reports whether a stream is one.
func isTerminal(stream any) bool {
	file, ok := stream.(*os.File)
	return ok && term.IsTerminal(int(file.Fd()))
}

// widthOf is how many columns a terminal has.
func widthOf(stream any) int {
	const usual = 80
	if file, ok := stream.(*os.File); ok {
		if width, _, err := term.GetSize(int(file.Fd())); err == nil && width > 0 {
			return width
		}
	}
	return usual
}

// app is what the commands share.
type app struct {
	in     io.Reader
	out    *checked
	errOut io.Writer

	asks  bool // in is a terminal
	shows bool // errOut is a terminal
	color bool // out is a terminal that takes colours

	json    bool
	started bool // arguments and flags were in order
	config  config
}

// command is the tree of commands.
func (a *app) command() *cobra.Command {
	root := &cobra.Command{
		Use:   "mana-session",
		Short: "Look after the sessions of Matrix bots",
		Long: "mana-session looks after the sessions that bots keep on Redis with github.com/mana/session.\n" +
			"It reads the same environment as the bots: MANA_CORE_AUTH_URL, MANA_CORE_SERVICE_KEY, REDIS_URL\n" +
			"(or REDIS_HOST, REDIS_PORT and REDIS_PASSWORD), SESSION_ENCRYPTION_KEYS. Flags win over it.",
		Version:       version(),
		SilenceErrors: true,
		SilenceUsage:  true,
		PersistentPreRun: func(*cobra.Command, []string) {
			a.started = true
			a.color = a.color && !a.json
		},
		DisableAutoGenTag: true,
	}
	root.PersistentFlags().BoolVar(&a.json, "json", false, "print JSON")
	a.config.flags(root.PersistentFlags())
	root.AddCommand(a.status(), a.show(), a.users(), a.logout(), a.watch(), a.why(), a.migrate(), a.doctor(), man())
	return root
}

// sayNo has cobra's own commands fail when they are asked for what they do not have:
// they would print a help text, and exit with 0.
func sayNo(root *cobra.Command) {
	root.InitDefaultHelpCmd()
	root.InitDefaultCompletionCmd()
	for _, cmd := range root.Commands() {
		switch cmd.Name() {
		case "help":
			show := cmd.Run
			cmd.Run, cmd.RunE = nil, func(cmd *cobra.Command, args []string) error {
				if _, rest, err := root.Find(args); err != nil || len(rest) > 0 {
					return usage(fmt.Errorf("there is no command %q", strings.Join(args, " ")))
				}
				show(cmd, args)
				return nil
			}
		case "completion":
			cmd.Args = cobra.ArbitraryArgs
			cmd.RunE = func(*cobra.Command, []string) error {
				return usage(errors.New("completion for what? bash, zsh, fish or powershell"))
			}
		}
	}
}

// version is that of the module, as the build has it.
func version() string {
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "(devel)"
}

// user is a command about one user.
func user(use, short, long string, do func(ctx context.Context, userID string) error) *cobra.Command {
	return &cobra.Command{
		Use: use, Short: short, Long: long,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE:              func(cmd *cobra.Command, args []string) error { return do(cmd.Context(), args[0]) },
	}
}

// end says what went wrong, if anything did, and returns the exit code.
func (a *app) end(err error) int {
	if lost := a.out.err; lost != nil && !errors.Is(err, lost) {
		// Nobody has seen what the command came to.
		fmt.Fprintf(a.errOut, "mana-session: the output is incomplete: %s\n", clean(plain(lost)))
		return max(exitCode(err), exitFailed)
	}
	code := exitCode(err)
	var said *exit
	if err == nil || errors.As(err, &said) && said.err == nil {
		return code
	}
	message := plain(err)
	if a.json && a.out.err == nil {
		_ = a.jsonLine(struct { // on one line, as watch's are
			Error    string `json:"error"`
			ExitCode int    `json:"exitCode"`
		}{message, code})
		return code
	}
	fmt.Fprintf(a.errOut, "mana-session: %s\n", clean(message))
	if hint := hints[code]; hint != "" {
		fmt.Fprintf(a.errOut, "%s\n", hint)
	}
	return code
}
