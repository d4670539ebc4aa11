%%% @private
%%% @doc What leads to a gateway: where none is named, the program and the choice of who runs it;
%%% and the link. Each takes up its work after a crash of the others.
-module(esdb_gater_cluster_sup).

-behaviour(supervisor).

-export([start_link/0]).
-export([init/1]).

-spec start_link() -> supervisor:startlink_ret().
start_link() ->
    supervisor:start_link({local, ?MODULE}, ?MODULE, []).

-spec init([]) -> {ok, {supervisor:sup_flags(), [supervisor:child_spec()]}}.
init([]) ->
    Config = esdb_gater_config:current(),
    Children =
        case maps:get(gateways, Config, []) of
            [] -> [events(), acknowledger(), pipe(), program(), embedded(),
                   link(#{mode => embedded}, Config)];
            Gateways -> [events(), acknowledger(),
                         link(#{mode => named, gateways => Gateways}, Config)]
        end,
    ok = esdb_gater_names:await_free([Name || #{id := Name} <- Children]),
    {ok, {#{strategy => one_for_one, intensity => 30, period => 10}, Children}}.

%% Ends after the program, which may still have something to say.
pipe() ->
    #{id => esdb_gater_pipe, start => {esdb_gater_pipe, start_link, []}}.

%% The program gets time to write down what it has and to end.
program() ->
    #{id => esdb_gater_port, start => {esdb_gater_port, start_link, []}, shutdown => 15000}.

%% Ends before the program does, so that other nodes have left it by then.
embedded() ->
    #{id => esdb_gater_embedded, start => {esdb_gater_embedded, start_link, []}}.

events() ->
    #{id => esdb_gater_events, start => {esdb_gater_events, start_link, []}}.

acknowledger() ->
    #{id => esdb_gater_acknowledger, start => {esdb_gater_acknowledger, start_link, []}}.

link(Options, Config) ->
    Timed = maps:merge(Options, maps:with([gateway_timeout_ms, registration], Config)),
    #{id => esdb_gater_worker_registry, start => {esdb_gater_link_process, start_link, [Timed]}}.
