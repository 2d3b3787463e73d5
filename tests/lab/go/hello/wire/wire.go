// Copyright (c) 2026, the progressive.istio authors
// GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
// SPDX-License-Identifier: GPL-3.0-or-later

// Package wire is the one gRPC method of the lab's app, without generated code: Empty in, the version as a string out.
package wire

import (
	"context"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// Method is the path of the call.
const Method = "/lab.Hello/Say"

// Sayer answers the call.
type Sayer interface {
	Say(ctx context.Context) (string, error)
}

// Service describes lab.Hello to a gRPC server.
var Service = grpc.ServiceDesc{
	ServiceName: "lab.Hello",
	HandlerType: (*Sayer)(nil),
	Methods: []grpc.MethodDesc{{
		MethodName: "Say",
		Handler: func(srv any, ctx context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
			if err := decode(new(emptypb.Empty)); err != nil {
				return nil, err
			}
			text, err := srv.(Sayer).Say(ctx)
			if err != nil {
				return nil, err
			}
			return wrapperspb.String(text), nil
		},
	}},
}

// Say calls the method.
func Say(ctx context.Context, conn grpc.ClientConnInterface) (string, error) {
	answer := new(wrapperspb.StringValue)
	err := conn.Invoke(ctx, Method, new(emptypb.Empty), answer)
	return answer.GetValue(), err
}
