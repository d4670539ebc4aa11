%%% @doc The BEAM nodes this node is connected to, and whether there is a gateway.
-module(esdb_gater_cluster_monitor).

-export([get_nodes/0, is_healthy/0]).

%% @doc Returns this node and the visible nodes it is connected to, sorted. Gateways are hidden
%% nodes and are not among them.
-spec get_nodes() -> [node(), ...].
get_nodes() ->
    lists:sort([node() | nodes()]).

%% @doc Whether this node uses a gateway now, so that registrations and publications succeed.
-spec is_healthy() -> boolean().
is_healthy() ->
    esdb_gater_link:gateway() =/= none.
