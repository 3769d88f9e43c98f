// Surface prints what the packages of a module export, one line per name, in the
// order of the alphabet: for a file that shows in review what a change adds to
// the exported surface, or takes from it.
//
//	go run -C tools ./surface ../jwks
package main

import (
	"fmt"
	"go/types"
	"log"
	"os"
	"slices"
	"strings"

	"golang.org/x/tools/go/packages"
)

func main() {
	log.SetFlags(0)
	if len(os.Args) != 2 {
		log.Fatal("usage: surface <module directory>")
	}
	lines, err := surface(os.Args[1])
	if err != nil {
		log.Fatal(err)
	}
	for _, line := range lines {
		fmt.Println(line)
	}
}

func surface(dir string) ([]string, error) {
	pkgs, err := packages.Load(&packages.Config{
		Dir:  dir,
		Mode: packages.NeedName | packages.NeedTypes | packages.NeedImports | packages.NeedDeps | packages.NeedFiles | packages.NeedSyntax | packages.NeedTypesInfo,
	}, "./...")
	if err != nil {
		return nil, err
	}
	if packages.PrintErrors(pkgs) > 0 {
		return nil, fmt.Errorf("%s does not compile", dir)
	}
	var lines []string
	for _, pkg := range pkgs {
		if pkg.Name == "main" || slices.Contains(strings.Split(pkg.PkgPath, "/"), "internal") {
			continue
		}
		scope := pkg.Types.Scope()
		for _, name := range scope.Names() {
			if object := scope.Lookup(name); object.Exported() {
				for _, line := range describe(object) {
					lines = append(lines, pkg.PkgPath+": "+line)
				}
			}
		}
	}
	slices.Sort(lines)
	return lines, nil
}

// describe is an object in one line, and a line for each of its exported fields
// and methods.
func describe(object types.Object) []string {
	short := func(pkg *types.Package) string {
		if pkg == object.Pkg() {
			return ""
		}
		return pkg.Name()
	}
	switch object := object.(type) {
	case *types.TypeName:
		return describeType(object, short)
	case *types.Const:
		return []string{types.ObjectString(object, short) + " = " + object.Val().ExactString()}
	}
	return []string{types.ObjectString(object, short)}
}

func describeType(object *types.TypeName, short types.Qualifier) []string {
	name := "type " + object.Name()
	if object.IsAlias() {
		return []string{name + " = " + types.TypeString(types.Unalias(object.Type()), short)}
	}
	named := object.Type().(*types.Named)
	if list := named.TypeParams(); list.Len() > 0 {
		name = "type " + types.TypeString(named, short)
	}
	lines := []string{name}
	switch under := named.Underlying().(type) {
	case *types.Struct:
		lines[0] += " struct"
		for field := range under.Fields() {
			if field.Exported() {
				lines = append(lines, fmt.Sprintf("%s struct, %s %s", name, field.Name(), types.TypeString(field.Type(), short)))
			}
		}
	case *types.Interface:
		lines[0] += " interface"
		for method := range under.Methods() {
			lines = append(lines, fmt.Sprintf("%s interface, %s%s", name, method.Name(), signature(method, short)))
		}
	default:
		lines[0] += " " + types.TypeString(under, short)
	}
	if types.IsInterface(named) {
		return lines
	}
	methods := types.NewMethodSet(types.NewPointer(named))
	byValue := types.NewMethodSet(named)
	for selection := range methods.Methods() {
		method := selection.Obj()
		if !method.Exported() {
			continue
		}
		receiver := "*" + object.Name()
		if byValue.Lookup(method.Pkg(), method.Name()) != nil {
			receiver = object.Name()
		}
		lines = append(lines, fmt.Sprintf("method (%s) %s%s", receiver, method.Name(), signature(method, short)))
	}
	return lines
}

func signature(method types.Object, short types.Qualifier) string {
	return strings.TrimPrefix(types.TypeString(method.Type(), short), "func")
}
