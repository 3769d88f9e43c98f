package main

import (
	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"
)

// man writes the manual pages, for packagers.
func man() *cobra.Command {
	return &cobra.Command{
		Use: "man DIR", Short: "Write the manual pages into a directory", Hidden: true,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			header := &doc.GenManHeader{Title: "MANA-SESSION", Section: "1", Source: "mana-session"}
			return doc.GenManTree(cmd.Root(), header, args[0])
		},
	}
}
