%%% @private
%%% @doc The transport to a gateway: Erlang distribution or, while this node has no name, the pipes
%%% of the program that it runs.
%%%
%%% A caller asks {@link address/2} for the address of a service of a gateway: `{Name, Node}', or
%%% the local process that {@link esdb_gater_pipe} keeps in its place. Calls, casts, plain sends and
%%% monitors accept both. No other module distinguishes the two transports.
%%% @end
-module(esdb_gater_transport).

-export([kind/0, piped_gateway/0, address/2, connect/1, is_connected/1,
         disconnect/1]).

-export_type([kind/0]).

-type kind() :: distribution | piped.

%% No node has this name, so it is never dialled.
-define(PIPED, 'esdb_gater@nohost').

%% @doc Returns whether this node has a name and therefore takes part in distribution.
-spec kind() -> kind().
kind() ->
    case node() of
        nonode@nohost -> piped;
        _ -> distribution
    end.

%% @doc Returns the name that stands for the gateway while this node has no name.
-spec piped_gateway() -> node().
piped_gateway() -> ?PIPED.

%% @doc Returns the address of the process that is registered as `Name' at a gateway.
-spec address(Name :: atom(), Gateway :: node()) -> {atom(), node()} | pid().
address(Name, ?PIPED) -> esdb_gater_pipe:service(Name);
address(Name, Gateway) -> {Name, Gateway}.

%% @doc Connects to a gateway. Returns `ignored' for a gateway on another node if this node has no
%% name.
-dialyzer({nowarn_function, connect/1}).
-spec connect(Gateway :: node()) -> boolean() | ignored.
connect(?PIPED) -> esdb_gater_pipe:is_open();
connect(Gateway) -> net_kernel:connect_node(Gateway).

%% @doc Whether messages to the gateway go anywhere now.
-spec is_connected(Gateway :: node()) -> boolean().
is_connected(?PIPED) -> esdb_gater_pipe:is_open();
is_connected(Gateway) -> lists:member(Gateway, nodes(connected)).

%% @doc Cuts the connection, which resumes processes that wait for the gateway or are suspended in a
%% send to it.
-spec disconnect(Gateway :: node()) -> ok.
disconnect(?PIPED) -> esdb_gater_pipe:close();
disconnect(Gateway) -> _ = erlang:disconnect_node(Gateway), ok.
