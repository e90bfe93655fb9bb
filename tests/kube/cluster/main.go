// Command cluster holds the parts of a Kubernetes control plane that `make kube-test` runs, in one binary so that they
// are linked once: `cluster apiserver FLAGS`, `cluster controller-manager FLAGS`, `cluster kubectl ARGUMENTS` and
// `cluster etcd FLAGS`.
package main

import (
	"fmt"
	"os"

	"go.etcd.io/etcd/server/v3/etcdmain"
	"k8s.io/component-base/cli"
	kubectl "k8s.io/kubectl/pkg/cmd"
	kubectlutil "k8s.io/kubectl/pkg/cmd/util"
	apiserver "k8s.io/kubernetes/cmd/kube-apiserver/app"
	controllermanager "k8s.io/kubernetes/cmd/kube-controller-manager/app"
)

func main() {
	if len(os.Args) < 2 {
		fmt.Fprintln(os.Stderr, "usage: cluster apiserver|controller-manager|kubectl|etcd ARGUMENTS")
		os.Exit(2)
	}
	part := os.Args[1]
	// Each part parses os.Args itself.
	os.Args = append([]string{part}, os.Args[2:]...)
	switch part {
	case "apiserver":
		os.Exit(cli.Run(apiserver.NewAPIServerCommand()))
	case "controller-manager":
		os.Exit(cli.Run(controllermanager.NewControllerManagerCommand()))
	case "kubectl":
		if err := cli.RunNoErrOutput(kubectl.NewDefaultKubectlCommand()); err != nil {
			kubectlutil.CheckErr(err)
		}
	case "etcd":
		etcdmain.Main(os.Args)
	default:
		fmt.Fprintf(os.Stderr, "cluster: no part is named %q\n", part)
		os.Exit(2)
	}
}
