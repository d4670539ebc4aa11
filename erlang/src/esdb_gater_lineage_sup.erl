%%% @private
%%% @doc Supervises the bridge to nodes of the original library and the `pg' scopes that these use;
%%% see {@link esdb_gater_lineage}. It is started if the key `lineage_scopes' is true.
-module(esdb_gater_lineage_sup).

-behaviour(supervisor).

-export([start_link/0, start_scope/1]).
-export([init/1]).

-spec start_link() -> supervisor:startlink_ret().
start_link() ->
    supervisor:start_link({local, ?MODULE}, ?MODULE, []).

%% @doc Starts a scope, unless another application has started it on this node.
-spec start_scope(atom()) -> {ok, pid()} | ignore | {error, term()}.
start_scope(Scope) ->
    case pg:start_link(Scope) of
        {error, {already_started, _}} -> ignore;
        Started -> Started
    end.

-spec init([]) -> {ok, {supervisor:sup_flags(), [supervisor:child_spec()]}}.
init([]) ->
    Scopes = [#{id => Scope, start => {?MODULE, start_scope, [Scope]}}
              || Scope <- esdb_gater_lineage:scopes()],
    Bridge = #{id => esdb_gater_lineage, start => {esdb_gater_lineage, start_link, []}},
    {ok, {#{strategy => rest_for_one, intensity => 10, period => 10}, Scopes ++ [Bridge]}}.
