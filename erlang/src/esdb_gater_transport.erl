%%% @private
%%% @doc How this node reaches a gateway: over Erlang distribution or, while it has no name, over
%%% the pipes of the program it runs.
%%%
%%% Who sends to a service of a gateway asks {@link address/2} where to: `{Name, Node}', or the
%%% local process that {@link esdb_gater_pipe} keeps in its place. Calls, casts, plain sends and
%%% monitors take both. Nothing else in the application knows of two ways.
%%% @end
-module(esdb_gater_transport).

-export([kind/0, piped_gateway/0, address/2, connect/1, disconnect/1]).

-export_type([kind/0]).

-type kind() :: distribution | piped.

%% No node has this name, so nothing is ever dialled under it.
-define(PIPED, 'esdb_gater@nohost').

%% @doc Whether this node has a name and so takes part in distribution.
-spec kind() -> kind().
kind() ->
    case node() of
        nonode@nohost -> piped;
        _ -> distribution
    end.

%% @doc What stands for the gateway's node while this node has no name.
-spec piped_gateway() -> node().
piped_gateway() -> ?PIPED.

%% @doc Where messages to the process that is registered as `Name' at a gateway go.
-spec address(Name :: atom(), Gateway :: node()) -> {atom(), node()} | pid().
address(Name, ?PIPED) -> esdb_gater_pipe:service(Name);
address(Name, Gateway) -> {Name, Gateway}.

%% @doc Connects to a gateway. `ignored': it is another node, and this one has no name.
-dialyzer({nowarn_function, connect/1}).
-spec connect(Gateway :: node()) -> boolean() | ignored.
connect(?PIPED) -> esdb_gater_pipe:is_open();
connect(Gateway) -> net_kernel:connect_node(Gateway).

%% @doc Cuts the connection: who waits for the gateway, or in a send to it, is set free.
-spec disconnect(Gateway :: node()) -> ok.
disconnect(?PIPED) -> esdb_gater_pipe:close();
disconnect(Gateway) -> _ = erlang:disconnect_node(Gateway), ok.
