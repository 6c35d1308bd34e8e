// A device plugin for tests: `device-plugin RESOURCE ID...` offers these devices to kubelet, all of them healthy, for ever.
package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	plugin "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"
)

type devices struct {
	plugin.UnimplementedDevicePluginServer
	ids []string
}

func (d devices) GetDevicePluginOptions(context.Context, *plugin.Empty) (*plugin.DevicePluginOptions, error) {
	return &plugin.DevicePluginOptions{}, nil
}

func (d devices) ListAndWatch(_ *plugin.Empty, stream grpc.ServerStreamingServer[plugin.ListAndWatchResponse]) error {
	list := &plugin.ListAndWatchResponse{}
	for _, id := range d.ids {
		list.Devices = append(list.Devices, &plugin.Device{ID: id, Health: plugin.Healthy})
	}
	if err := stream.Send(list); err != nil {
		return err
	}
	<-stream.Context().Done()
	return nil
}

func (d devices) Allocate(_ context.Context, request *plugin.AllocateRequest) (*plugin.AllocateResponse, error) {
	answer := &plugin.AllocateResponse{}
	for range request.ContainerRequests {
		answer.ContainerResponses = append(answer.ContainerResponses, &plugin.ContainerAllocateResponse{})
	}
	return answer, nil
}

func offerDevices(resource string, ids []string) error {
	const socket = "weft-test.sock"
	os.Remove(plugin.DevicePluginPath + socket)
	listener, err := net.Listen("unix", plugin.DevicePluginPath+socket)
	if err != nil {
		return err
	}
	server := grpc.NewServer()
	plugin.RegisterDevicePluginServer(server, devices{ids: ids})
	go server.Serve(listener)
	connection, err := grpc.NewClient("unix:"+plugin.KubeletSocket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	limited, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	request := &plugin.RegisterRequest{Version: plugin.Version, Endpoint: socket, ResourceName: resource}
	if _, err := plugin.NewRegistrationClient(connection).Register(limited, request, grpc.WaitForReady(true)); err != nil {
		return err
	}
	select {}
}

func devicePlugin(args []string) int {
	if len(args) < 3 {
		fmt.Fprintln(os.Stderr, "usage: device-plugin RESOURCE ID...")
		return 2
	}
	if err := offerDevices(args[1], args[2:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}
