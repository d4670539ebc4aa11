%%% @doc The BEAM nodes to which this node is connected, and the state of its gateway.
-module(esdb_gater_cluster_monitor).

-export([get_nodes/0, is_healthy/0]).

%% @doc Returns this node and the visible nodes to which it is connected, sorted. Gateways are
%% hidden nodes and are not included.
-spec get_nodes() -> [node(), ...].
get_nodes() ->
    lists:sort([node() | nodes()]).

%% @doc Returns whether this node uses a gateway at present, so that registrations and publications
%% can succeed.
-spec is_healthy() -> boolean().
is_healthy() ->
    esdb_gater_link:gateway() =/= none.
