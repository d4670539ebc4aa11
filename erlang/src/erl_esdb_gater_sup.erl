%%% @private
%%% @doc The top supervisor of the application. Its children find each other through tables, which
%%% two of the children keep for each other, so each child may crash alone.
-module(erl_esdb_gater_sup).

-behaviour(supervisor).

-export([start_link/0]).
-export([init/1]).

-spec start_link() -> supervisor:startlink_ret().
start_link() ->
    supervisor:start_link({local, ?MODULE}, ?MODULE, []).

%% The configuration is not part of any child specification, since reports show those.
-spec init([]) -> {ok, {supervisor:sup_flags(), [supervisor:child_spec()]}}.
init([]) ->
    Supervisor = fun(Module) ->
                     #{id => Module, start => {Module, start_link, []}, type => supervisor,
                       shutdown => infinity}
                 end,
    Keepers = [#{id => Name, start => {esdb_gater_tables, start_link, [Name, Other]}}
               || {Name, Other} <- esdb_gater_tables:keepers()],
    Children = Keepers ++ [Supervisor(esdb_gater_cluster_sup), Supervisor(esdb_channel_sup)
                           | bridge(maps:get(lineage_scopes, esdb_gater_config:current(), false))],
    %% Each child may be killed a few times in a row. More restarts end the application.
    {ok, {#{strategy => one_for_one, intensity => 30, period => 10}, Children}}.

bridge(true) ->
    [#{id => esdb_gater_lineage_sup, start => {esdb_gater_lineage_sup, start_link, []},
       type => supervisor, shutdown => infinity}];
bridge(false) ->
    [].
