// A driver of dynamic resource allocation for tests: `claim-driver NAME` registers with kubelet and says of every claim that its
// devices are ready. Which devices there are is said by ResourceSlices that the test creates.
package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"

	"google.golang.org/grpc"
	dra "k8s.io/kubelet/pkg/apis/dra/v1"
	registration "k8s.io/kubelet/pkg/apis/pluginregistration/v1"
)

const kubeletDirectory = "/var/lib/kubelet"

type driver struct {
	dra.UnimplementedDRAPluginServer
	registration.UnimplementedRegistrationServer
	name, socket string
}

func (d driver) GetInfo(context.Context, *registration.InfoRequest) (*registration.PluginInfo, error) {
	return &registration.PluginInfo{
		Type: registration.DRAPlugin, Name: d.name, Endpoint: d.socket, SupportedVersions: []string{dra.DRAPluginService},
	}, nil
}

func (d driver) NotifyRegistrationStatus(_ context.Context, status *registration.RegistrationStatus) (*registration.RegistrationStatusResponse, error) {
	fmt.Println("registered:", status.PluginRegistered, status.Error)
	return &registration.RegistrationStatusResponse{}, nil
}

func (d driver) NodePrepareResources(_ context.Context, request *dra.NodePrepareResourcesRequest) (*dra.NodePrepareResourcesResponse, error) {
	answer := &dra.NodePrepareResourcesResponse{Claims: map[string]*dra.NodePrepareResourceResponse{}}
	for _, claim := range request.Claims {
		answer.Claims[claim.Uid] = &dra.NodePrepareResourceResponse{}
	}
	return answer, nil
}

func (d driver) NodeUnprepareResources(_ context.Context, request *dra.NodeUnprepareResourcesRequest) (*dra.NodeUnprepareResourcesResponse, error) {
	answer := &dra.NodeUnprepareResourcesResponse{Claims: map[string]*dra.NodeUnprepareResourceResponse{}}
	for _, claim := range request.Claims {
		answer.Claims[claim.Uid] = &dra.NodeUnprepareResourceResponse{}
	}
	return answer, nil
}

// serve answers on a socket until the program ends.
func serve(socket string, register func(*grpc.Server)) error {
	if err := os.MkdirAll(filepath.Dir(socket), 0o750); err != nil {
		return err
	}
	os.Remove(socket)
	listener, err := net.Listen("unix", socket)
	if err != nil {
		return err
	}
	server := grpc.NewServer()
	register(server)
	go server.Serve(listener)
	return nil
}

func runDriver(name string) error {
	d := driver{name: name, socket: filepath.Join(kubeletDirectory, "plugins", name, "dra.sock")}
	if err := serve(d.socket, func(server *grpc.Server) { dra.RegisterDRAPluginServer(server, d) }); err != nil {
		return err
	}
	// kubelet finds it here, and so it comes last.
	found := filepath.Join(kubeletDirectory, "plugins_registry", name+"-reg.sock")
	if err := serve(found, func(server *grpc.Server) { registration.RegisterRegistrationServer(server, d) }); err != nil {
		return err
	}
	select {}
}

func claimDriver(args []string) int {
	if len(args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: claim-driver NAME")
		return 2
	}
	if err := runDriver(args[1]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}
