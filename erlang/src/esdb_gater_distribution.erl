%%% @private
%%% @doc Makes this node a distributed one, for a gateway that runs on the same machine.
%%%
%%% A node that has a name keeps it. One that has none gets a generated one on 127.0.0.1,
%%% listens there only, and loses the name when the application stops.
%%% @end
-module(esdb_gater_distribution).

-include_lib("kernel/include/logger.hrl").

-export([start/0, stop/0, gateway_address/1]).

-define(STARTED_HERE, {?MODULE, started_here}).
-define(EPMD_TIMEOUT, 1000).            % ms to connect, on the same machine
-define(EPMD_TRIES, 50).
-define(EPMD_PAUSE, 20).                % ms

%% @doc Starts distribution unless it runs.
-spec start() -> ok | {error, term()}.
start() ->
    case is_alive() of
        true -> ok;
        false -> start_own()
    end.

%% @doc Ends what {@link start/0} has started, and nothing else.
-spec stop() -> ok.
stop() ->
    case persistent_term:get(?STARTED_HERE, false) of
        false ->
            ok;
        true ->
            _ = persistent_term:erase(?STARTED_HERE),
            _ = net_kernel:stop(),
            ok
    end.

%% @doc The host of the embedded gateway's name, and the address it listens on. `loopback', for
%% nodes of this machine: 127.0.0.1, which with short names, that may have no dot, is called
%% localhost. `open', for nodes of others: the host in this node's name, and wherever this node's
%% own distribution listens.
-spec gateway_address(esdb_gater_election:scope()) -> {Host :: string(), Address :: string()}.
gateway_address(loopback) ->
    case net_kernel:longnames() of
        false -> {"localhost", "127.0.0.1"};
        _ -> {"127.0.0.1", "127.0.0.1"}
    end;
gateway_address(open) ->
    Host = lists:last(string:split(atom_to_list(node()), "@")),
    case application:get_env(kernel, inet_dist_use_interface) of
        {ok, Address} when tuple_size(Address) =:= 4 -> {Host, inet:ntoa(Address)};
        {ok, Address} when tuple_size(Address) =:= 8 -> {Host, "[" ++ inet:ntoa(Address) ++ "]"};
        _ -> {Host, "0.0.0.0"}
    end.

start_own() ->
    case ensure_epmd() of
        ok ->
            Interface = application:get_env(kernel, inet_dist_use_interface),
            ok = application:set_env(kernel, inet_dist_use_interface, {127, 0, 0, 1}),
            Name = list_to_atom(lists:concat([beam_, os:getpid(), "_", random(), "@127.0.0.1"])),
            Started = net_kernel:start([Name, longnames]),
            %% Read when the listener was made; the setting is not ours.
            ok = restore_interface(Interface),
            started(Name, Started);
        {error, _} = Error ->
            Error
    end.

started(Name, {ok, _}) ->
    persistent_term:put(?STARTED_HERE, true),
    ?LOG_NOTICE("erl_esdb_gater: this node had no name; it is now ~ts and listens on 127.0.0.1",
                [Name], #{application => erl_esdb_gater});
started(_Name, {error, _} = Error) ->
    Error.

restore_interface(undefined) -> application:unset_env(kernel, inet_dist_use_interface);
restore_interface({ok, Interface}) ->
    application:set_env(kernel, inet_dist_use_interface, Interface).

random() ->
    string:lowercase(integer_to_list(rand:uniform(1 bsl 40), 36)).

%% The name server of the machine. As `erl -name' does it: started if absent, and left running
%% for others.
ensure_epmd() ->
    case epmd_answers() of
        true ->
            ok;
        false ->
            case epmd_program() of
                false ->
                    {error, no_epmd};
                Program ->
                    _ = open_port({spawn_executable, Program}, [{args, ["-daemon"]}, hide]),
                    await_epmd(?EPMD_TRIES)
            end
    end.

await_epmd(0) ->
    {error, no_epmd};
await_epmd(Tries) ->
    case epmd_answers() of
        true -> ok;
        false -> timer:sleep(?EPMD_PAUSE), await_epmd(Tries - 1)
    end.

epmd_answers() ->
    case gen_tcp:connect({127, 0, 0, 1}, epmd_port(), [], ?EPMD_TIMEOUT) of
        {ok, Socket} -> ok = gen_tcp:close(Socket), true;
        {error, _} -> false
    end.

epmd_port() ->
    try list_to_integer(os:getenv("ERL_EPMD_PORT", "4369"))
    catch error:badarg -> 4369
    end.

%% Of this system first: there may be others on the path.
epmd_program() ->
    Own = filename:join([code:root_dir(), "erts-" ++ erlang:system_info(version), "bin", "epmd"]),
    case filelib:is_regular(Own) of
        true -> Own;
        false -> os:find_executable("epmd")
    end.
