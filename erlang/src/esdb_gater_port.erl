%%% @private
%%% @doc The gateway program `esdb-gater', run by this node when {@link esdb_gater_embedded} says
%%% so.
%%%
%%% The program is looked for under the configuration key `program', in the application's
%%% `priv' and on the path. It listens on 127.0.0.1; where nodes of other hosts are to use it,
%%% under the host part of this node's name, where this node's own distribution listens. It gets
%%% this node's cookie and the signing
%%% secret by its environment and the rest of the configuration by a file that only this user
%%% may read. Its name stays the same when it is started again, and so does its data.
%%%
%%% It ends when told so on its standard input or when that input ends: whatever becomes of
%%% this process or of the whole node, the program does not stay behind.
%%% @end
-module(esdb_gater_port).

-behaviour(gen_server).

-include_lib("kernel/include/logger.hrl").

-export([start_link/1, run/1, stop/0, kill/0, os_pid/0]).
-export([init/1, handle_call/3, handle_cast/2, handle_info/2, terminate/2]).

-define(READY_TIMEOUT, 30000).          % ms from start to the ready line
-define(STOP_TIMEOUT, 10000).           % ms the program may take to drain
-define(BACKOFF_MIN, 50).               % ms, doubles to the maximum
-define(BACKOFF_MAX, 5000).
-define(TELL_AFTER, 3).                 % failures in a row, then another node may try
-define(STEADY, 10000).                 % ms after which a start counts as a success

-record(state, {
    config :: map(),
    scope = none :: none | esdb_gater_election:scope(),     % none: it is not to run
    alive :: string() | undefined,          % its name before the @
    folder :: file:filename() | undefined,
    port :: port() | undefined,
    os_pid :: non_neg_integer() | undefined,
    ready = false :: boolean(),
    timer :: reference() | undefined,       % to be ready, or to start again
    failures = 0 :: non_neg_integer(),
    since = 0 :: integer(),                 % monotonic ms of the start
    missing_told = false :: boolean()
}).

%% @doc Runs nothing yet.
-spec start_link(Config :: map()) -> {ok, pid()} | {error, term()}.
start_link(Config) ->
    gen_server:start_link({local, ?MODULE}, ?MODULE, Config, []).

%% @doc The program is to run, and to listen where `Scope' says; one that listens on 127.0.0.1 only
%% is started again for `open'.
-spec run(esdb_gater_election:scope()) -> ok.
run(Scope) ->
    gen_server:cast(?MODULE, {run, Scope}).

%% @doc The program is to end.
-spec stop() -> ok.
stop() ->
    gen_server:cast(?MODULE, stop).

%% @doc The program hangs: it is to be started again.
-spec kill() -> ok.
kill() ->
    gen_server:cast(?MODULE, kill).

%% @doc The program's process id, for tests and people.
-spec os_pid() -> {ok, non_neg_integer()} | none.
os_pid() ->
    try gen_server:call(?MODULE, os_pid)
    catch exit:_ -> none
    end.

-spec init(map()) -> {ok, #state{}}.
init(Config) ->
    process_flag(trap_exit, true),
    ok = esdb_gater_facts:unset(program),
    %% Before the application has started: its user may look at node() next.
    _ = distributed(),
    ok = esdb_gater_embedded:port_started(),
    {ok, #state{config = Config}}.

-spec handle_call(term(), gen_server:from(), #state{}) -> {reply, term(), #state{}}.
handle_call(os_pid, _From, #state{os_pid = undefined} = State) ->
    {reply, none, State};
handle_call(os_pid, _From, #state{os_pid = OsPid} = State) ->
    {reply, {ok, OsPid}, State};
handle_call(Request, _From, State) ->
    {reply, {error, {unknown_request, Request}}, State}.

-spec handle_cast(term(), #state{}) -> {noreply, #state{}}.
handle_cast({run, _}, #state{scope = open} = State) ->
    {noreply, State};
handle_cast({run, Scope}, #state{scope = Scope} = State) ->
    {noreply, State};
handle_cast({run, Scope}, #state{scope = none} = State) ->
    {noreply, start(State#state{scope = Scope, failures = 0})};
handle_cast({run, open}, State) ->
    ?LOG_NOTICE("erl_esdb_gater: the embedded gateway is started again, to listen for nodes of other "
                "hosts", [], #{application => erl_esdb_gater}),
    Stopped = end_program(State),
    ok = esdb_gater_embedded:program_down(),
    {noreply, start(Stopped#state{scope = open})};
handle_cast(stop, State) ->
    {noreply, (end_program(State))#state{scope = none}};
handle_cast(kill, #state{os_pid = OsPid} = State) ->
    ok = kill(OsPid),
    {noreply, State};
handle_cast(_Message, State) ->
    {noreply, State}.

-spec handle_info(term(), #state{}) -> {noreply, #state{}}.
handle_info({Port, {data, {eol, <<"ready node=", Rest/binary>>}}},
            #state{port = Port, ready = false} = State) ->
    [Node | _] = binary:split(Rest, <<" ">>),
    {noreply, serves(binary_to_atom(Node), State)};
handle_info({Port, {data, _}}, #state{port = Port} = State) ->
    {noreply, State};
handle_info({Port, {exit_status, Status}}, #state{port = Port} = State) ->
    {noreply, ended({exit_status, Status}, State)};
handle_info({'EXIT', Port, Reason}, #state{port = Port} = State) ->
    {noreply, ended(Reason, State)};
handle_info({not_ready, Port}, #state{port = Port, ready = false, os_pid = OsPid} = State) ->
    ok = kill(OsPid),
    {noreply, State};
handle_info({timeout, Timer, start}, #state{timer = Timer} = State) ->
    {noreply, start(State#state{timer = undefined})};
handle_info(_Message, State) ->
    {noreply, State}.

-spec terminate(term(), #state{}) -> ok.
terminate(_Reason, #state{folder = Folder} = State) ->
    _ = end_program(State),
    remove_folder(Folder).

%%% Starting

start(#state{config = Config, missing_told = Told} = State) ->
    case {distributed(), program(Config)} of
        {ok, {ok, Program}} ->
            launch(Program, with_folder(State));
        {ok, {error, Where}} ->
            _ = Told orelse
                ?LOG_ERROR("erl_esdb_gater: there is no gateway: the program esdb-gater is not at "
                           "~tp. Build it (this takes cargo), set the key `program', or name "
                           "running gateways with the key `gateways'", [Where],
                           #{application => erl_esdb_gater}),
            ok = esdb_gater_embedded:program_fails(),
            again(State#state{missing_told = true});
        {{error, _}, _} ->
            again(State)
    end.

distributed() ->
    case esdb_gater_distribution:start() of
        ok ->
            ok;
        {error, Reason} = Error ->
            ?LOG_ERROR("erl_esdb_gater: this node has no name and cannot get one (~tp); without, "
                       "it cannot connect to a gateway", [Reason], #{application => erl_esdb_gater}),
            Error
    end.

launch(Program, #state{config = Config} = State) ->
    Alive = alive(State),
    Options = [{args, arguments(Alive, State)}, {env, environment(Config)},
               {line, 4096}, binary, exit_status, use_stdio, hide],
    try open_port({spawn_executable, Program}, Options) of
        Port ->
            OsPid = case erlang:port_info(Port, os_pid) of
                        {os_pid, Id} -> Id;
                        undefined -> undefined        % it has ended already
                    end,
            Timer = erlang:send_after(?READY_TIMEOUT, self(), {not_ready, Port}),
            State#state{alive = Alive, port = Port, os_pid = OsPid, ready = false, timer = Timer,
                        since = now_ms()}
    catch
        error:Reason ->
            ?LOG_ERROR("erl_esdb_gater: ~ts does not start: ~tp", [Program, Reason],
                       #{application => erl_esdb_gater}),
            again(State)
    end.

alive(#state{alive = undefined}) ->
    lists:concat(["esdb_gater_", os:getpid(), "_", random()]);
alive(#state{alive = Alive}) ->
    Alive.

arguments(Alive, #state{scope = Scope, folder = Folder, config = Config}) ->
    DataDir = maps:get(data_dir, Config, filename:join(Folder, "data")),
    {Host, Address} = esdb_gater_distribution:gateway_address(Scope),
    ["start", "--embedded", "--name", Alive ++ "@" ++ Host, "--listen", Address ++ ":0",
     "--data-dir", DataDir, "--config", filename:join(Folder, "gater.toml"),
     "--scratch-dir", Folder].

%% Arguments can be seen by every user of the machine, the environment cannot.
environment(Config) ->
    Secret = esdb_pubsub_security:get_secret(),
    Given = case lists:all(fun(Byte) -> Byte > 0 andalso Byte < 128 end, binary_to_list(Secret)) of
                true ->
                    [{"ESDB_GATER_SECRET", binary_to_list(Secret)}];
                false ->
                    %% An environment cannot hold every byte: the link tells it then. Until
                    %% it does, a secret that nobody knows.
                    ok = esdb_gater_facts:set(push_to_program, true),
                    [{"ESDB_GATER_SECRET", random_text()}]
            end,
    Level = case os:getenv("ESDB_GATER_LOG") of
                false -> [{"ESDB_GATER_LOG", "warn,openraft=error"}];
                _ -> []
            end,
    Join = case maps:get(data_dir, Config, none) of
               none -> [{"ESDB_GATER_JOIN", false}];
               _ -> []
           end,
    [{"ESDB_GATER_COOKIE", atom_to_list(erlang:get_cookie())} | Given ++ Level ++ Join].

%% Where the program is, or where it was looked for.
program(#{program := Program}) ->
    case filelib:is_regular(Program) of
        true -> {ok, Program};
        false -> {error, Program}
    end;
program(_Config) ->
    Own = case code:priv_dir(erl_esdb_gater) of
              {error, bad_name} -> "priv/esdb-gater";
              Priv -> filename:join(Priv, "esdb-gater")
          end,
    case filelib:is_regular(Own) of
        true ->
            {ok, Own};
        false ->
            case os:find_executable("esdb-gater") of
                false -> {error, Own};
                Found -> {ok, Found}
            end
    end.

%%% Its life

serves(Node, #state{timer = Timer} = State) ->
    cancel(Timer),
    ?LOG_INFO("erl_esdb_gater: the embedded gateway ~ts serves", [Node],
              #{application => erl_esdb_gater}),
    ok = esdb_gater_facts:set(program, Node),
    ok = esdb_gater_embedded:program_up(Node),
    State#state{ready = true, timer = undefined}.

ended(Reason, #state{port = Port, timer = Timer, since = Since, failures = Failures} = State) ->
    ?LOG_WARNING("erl_esdb_gater: the embedded gateway has ended (~tp) and is started again",
                 [Reason], #{application => erl_esdb_gater}),
    ok = esdb_gater_facts:unset(program),
    ok = esdb_gater_embedded:program_down(),
    ok = close(Port),
    cancel(Timer),
    Counted = case now_ms() - Since > ?STEADY of
                  true -> 0;
                  false -> Failures
              end,
    again(State#state{port = undefined, os_pid = undefined, ready = false, failures = Counted}).

again(#state{failures = Failures} = State) ->
    Pause = min(?BACKOFF_MAX, ?BACKOFF_MIN bsl min(Failures, 16)),
    _ = Failures >= ?TELL_AFTER andalso esdb_gater_embedded:program_fails(),
    State#state{failures = Failures + 1, timer = erlang:start_timer(Pause, self(), start)}.

end_program(#state{port = Port, os_pid = OsPid, timer = Timer} = State) ->
    ok = esdb_gater_facts:unset(program),
    cancel(Timer),
    ok = stop_program(Port, OsPid),
    State#state{port = undefined, os_pid = undefined, ready = false, timer = undefined}.

stop_program(undefined, _OsPid) ->
    ok;
stop_program(Port, OsPid) ->
    try
        true = port_command(Port, <<"stop\n">>),
        ok
    catch
        error:badarg -> ok                        % it has ended on its own
    end,
    receive
        {Port, {exit_status, _}} -> ok;
        {'EXIT', Port, _} -> ok
    after ?STOP_TIMEOUT ->
        ?LOG_WARNING("erl_esdb_gater: the embedded gateway does not end and is killed", [],
                     #{application => erl_esdb_gater}),
        kill(OsPid)
    end,
    close(Port).

close(Port) ->
    try
        true = port_close(Port),
        ok
    catch
        error:badarg -> ok
    end.

kill(undefined) ->
    ok;
kill(OsPid) ->
    _ = os:cmd("kill -9 " ++ integer_to_list(OsPid)),
    ok.

cancel(undefined) ->
    ok;
cancel(Timer) ->
    _ = erlang:cancel_timer(Timer),
    ok.

now_ms() ->
    erlang:monotonic_time(millisecond).

%%% The folder of its files. The program removes it when this node has ended without a word, and
%%% this process when the application stops.

with_folder(#state{folder = undefined} = State) ->
    Name = lists:concat(["esdb_gater_", os:getpid(), "_", random()]),
    with_folder(State#state{folder = filename:join(temporary(), Name)});
with_folder(#state{folder = Folder, config = Config} = State) ->
    case filelib:is_dir(Folder) of
        true ->
            State;
        false ->
            ok = file:make_dir(Folder),
            ok = file:change_mode(Folder, 8#700),
            ok = file:write_file(filename:join(Folder, "gater.toml"),
                                 esdb_gater_config:to_toml(Config)),
            State
    end.

remove_folder(undefined) ->
    ok;
remove_folder(Folder) ->
    case file:del_dir_r(Folder) of
        ok -> ok;
        {error, Reason} ->
            ?LOG_WARNING("erl_esdb_gater: ~ts cannot be removed: ~tp", [Folder, Reason],
                         #{application => erl_esdb_gater})
    end.

temporary() ->
    case os:getenv("TMPDIR") of
        Folder when is_list(Folder), Folder =/= "" -> Folder;
        _ -> "/tmp"
    end.

random_text() ->
    binary_to_list(base64:encode(crypto:strong_rand_bytes(32))).

random() ->
    string:lowercase(integer_to_list(rand:uniform(1 bsl 40), 36)).
