%%% @private
%%% @doc The top of the application. Children hold on to each other's names only, and the
%%% tables are a process of their own, so each may crash alone.
-module(erl_esdb_gater_sup).

-behaviour(supervisor).

-export([start_link/1]).
-export([init/1]).

-spec start_link(Config :: map()) -> supervisor:startlink_ret().
start_link(Config) ->
    supervisor:start_link({local, ?MODULE}, ?MODULE, Config).

-spec init(map()) -> {ok, {supervisor:sup_flags(), [supervisor:child_spec()]}}.
init(Config) ->
    Supervisor = fun(Module, Argument) ->
                     #{id => Module, start => {Module, start_link, [Argument]}, type => supervisor}
                 end,
    Children = [#{id => esdb_gater_tables, start => {esdb_gater_tables, start_link, []}},
                Supervisor(esdb_gater_cluster_sup, Config),
                Supervisor(esdb_channel_sup, esdb_gater_config:channels(Config))],
    %% Without the tables nothing works: they go together with all that comes after them.
    {ok, {#{strategy => rest_for_one, intensity => 3, period => 10}, Children}}.
