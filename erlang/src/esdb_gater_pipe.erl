%%% @private
%%% @doc The gateway of a node without a name, reached over the pipes of its program.
%%%
%%% What goes over the pipes are the messages of Erlang distribution, in the form without atom
%%% cache, `112, 131, Control, 131, Payload'; to the gateway this node is the peer
%%% `nonode@nohost'. Who is sent to, called or monitored there is a registered name. Each name in
%%% use has a local process in its place, its *service*: what that is sent goes to the gateway,
%%% and it ends when the gateway's process does (`noproc') or the pipes do (`noconnection'), as a
%%% monitor of `{Name, Node}' would tell. So this node keeps its namelessness, and with it what
%%% other applications have stored under it.
%%%
%%% What the gateway sends is handed out here: messages to pids, names and aliases of this node,
%%% and the monitors it sets on processes of this node.
%%%
%%% {@link esdb_gater_port} owns the port, opens and closes the pipe and passes on its frames.
%%% Whoever sends may have to wait while the pipe is full, as with distribution.
%%% @end
-module(esdb_gater_pipe).

-behaviour(gen_server).

-include_lib("kernel/include/logger.hrl").

-export([start_link/0, tables/0, open/1, shut/0, close/0, frame/1, is_open/0, service/1]).
-export([init/1, handle_call/3, handle_cast/2, handle_info/2]).

-define(TABLE, esdb_gater_services).
-define(TIMEOUT, 5000).                 % ms; this process is never long in anything
-define(PASS_THROUGH, 112).

%% Operations of distribution (erl_dist_protocol).
-define(SEND, 2).
-define(REG_SEND, 6).
-define(MONITOR_P, 19).
-define(DEMONITOR_P, 20).
-define(SEND_SENDER, 22).
-define(MONITOR_P_EXIT, 28).            % with the reason as payload
-define(ALIAS_SEND, 33).

-record(state, {
    port = none :: port() | none,
    services = #{} :: #{pid() => {atom(), reference()}},
    names = #{} :: #{reference() => pid()},         % of the monitors of services' names
    %% Monitors that the gateway has set: by its reference and by ours.
    theirs = #{} :: #{reference() => reference()},
    ours = #{} :: #{reference() => {From :: pid(), To :: pid() | atom(), reference()}}
}).

-spec start_link() -> {ok, pid()} | {error, term()}.
start_link() ->
    gen_server:start_link({local, ?MODULE}, ?MODULE, [], []).

%% @doc The tables to make, as arguments of `ets:new/2'.
-spec tables() -> [{atom(), [term()]}].
tables() ->
    [{?TABLE, [set, public, named_table, {read_concurrency, true}]}].

%% @doc The program at the other end of `Port' serves.
-spec open(port()) -> ok.
open(Port) ->
    gen_server:call(?MODULE, {open, Port}, infinity).

%% @doc The program is gone: every service ends.
-spec shut() -> ok.
shut() ->
    gen_server:cast(?MODULE, shut).

%% @doc Gives the gateway up: it is ended, and another one is started.
-spec close() -> ok.
close() ->
    gen_server:cast(?MODULE, close).

%% @doc A frame has come.
-spec frame(binary()) -> ok.
frame(Frame) ->
    gen_server:cast(?MODULE, {frame, Frame}).

%% @doc Whether a gateway can be reached over pipes.
-spec is_open() -> boolean().
is_open() ->
    try gen_server:call(?MODULE, is_open, ?TIMEOUT)
    catch exit:_ -> false
    end.

%% @doc The process that stands for the one registered as `Name' at the gateway. Without a gateway
%% it is one that ends with `noconnection' as soon as it is sent something.
-spec service(Name :: atom()) -> pid().
service(Name) ->
    try ets:lookup_element(?TABLE, Name, 2)
    catch
        error:badarg ->
            try gen_server:call(?MODULE, {service, Name}, ?TIMEOUT)
            catch exit:_ -> nobody()
            end
    end.

nobody() ->
    spawn(fun() ->
              receive _ -> exit(noconnection)
              after ?TIMEOUT -> ok
              end
          end).

%%% The process

-spec init([]) -> {ok, #state{}}.
init([]) ->
    process_flag(trap_exit, true),
    %% Services end with this process, and what the gateway has monitored through it is lost: the
    %% program is started again.
    true = ets:delete_all_objects(?TABLE),
    ok = esdb_gater_port:pipe_started(),
    {ok, #state{}}.

-spec handle_call(term(), gen_server:from(), #state{}) -> {reply, term(), #state{}}.
handle_call({open, Port}, _From, State) ->
    {reply, ok, (closed(State))#state{port = Port}};
handle_call(is_open, _From, #state{port = Port} = State) ->
    {reply, Port =/= none, State};
handle_call({service, _Name}, _From, #state{port = none} = State) ->
    {reply, nobody(), State};
handle_call({service, Name}, _From, State) ->
    case ets:lookup(?TABLE, Name) of
        [{_, Pid}] -> {reply, Pid, State};
        [] -> new_service(Name, State)
    end;
handle_call(Request, _From, State) ->
    {reply, {error, {unknown_request, Request}}, State}.

-spec handle_cast(term(), #state{}) -> {noreply, #state{}}.
handle_cast({frame, _}, #state{port = none} = State) ->
    {noreply, State};
handle_cast({frame, <<>>}, #state{port = Port} = State) ->
    _ = write(Port, <<>>),                                % a tick for a tick
    {noreply, State};
handle_cast({frame, <<?PASS_THROUGH, Control/binary>>}, State) ->
    {noreply, received(Control, State)};
handle_cast(shut, State) ->
    {noreply, closed(State)};
handle_cast(close, #state{port = none} = State) ->
    {noreply, State};
handle_cast(close, State) ->
    ok = esdb_gater_port:kill(),
    {noreply, closed(State)};
handle_cast(_Message, State) ->
    {noreply, State}.

-spec handle_info(term(), #state{}) -> {noreply, #state{}}.
handle_info({'EXIT', Pid, _}, #state{services = Services} = State) when is_map_key(Pid, Services) ->
    {noreply, service_ended(Pid, State)};
handle_info({'DOWN', Ref, process, _, Reason}, #state{ours = Ours} = State) ->
    case maps:take(Ref, Ours) of
        {{From, To, Theirs}, Rest} ->
            told_end(From, To, Theirs, Reason, State),
            {noreply, State#state{ours = Rest, theirs = maps:remove(Theirs, State#state.theirs)}};
        error ->
            {noreply, State}
    end;
handle_info(_Message, State) ->
    {noreply, State}.

%%% Services

new_service(Name, #state{port = Port, services = Services, names = Names} = State) ->
    Pid = spawn_link(fun() -> serve(Name, Port) end),
    Ref = make_ref(),
    _ = send(Port, {?MONITOR_P, Pid, Name, Ref}),
    true = ets:insert(?TABLE, {Name, Pid}),
    {reply, Pid, State#state{services = Services#{Pid => {Name, Ref}}, names = Names#{Ref => Pid}}}.

serve(Name, Port) ->
    receive
        Message ->
            case send(Port, {?REG_SEND, self(), '', Name}, Message) of
                true -> serve(Name, Port);
                false -> exit(noconnection)
            end
    end.

service_ended(Pid, #state{services = Services, names = Names} = State) ->
    {{Name, Ref}, Rest} = maps:take(Pid, Services),
    true = ets:delete_object(?TABLE, {Name, Pid}),
    State#state{services = Rest, names = maps:remove(Ref, Names)}.

closed(#state{services = Services, ours = Ours}) ->
    true = ets:delete_all_objects(?TABLE),
    maps:foreach(fun(Pid, _) -> unlink(Pid), exit(Pid, noconnection) end, Services),
    maps:foreach(fun(Ref, _) -> erlang:demonitor(Ref, [flush]) end, Ours),
    #state{}.

%%% What comes

received(Frame, State) ->
    {Control, Used} = binary_to_term(Frame, [used]),
    Payload = binary:part(Frame, Used, byte_size(Frame) - Used),
    control(Control, Payload, State).

control({?SEND, _, To}, Payload, State) -> deliver(To, Payload, State);
control({?SEND_SENDER, _From, To}, Payload, State) -> deliver(To, Payload, State);
control({?REG_SEND, _From, _, Name}, Payload, State) when is_atom(Name) ->
    case whereis(Name) of
        undefined -> State;
        Pid -> deliver(Pid, Payload, State)
    end;
control({?ALIAS_SEND, _From, Alias}, Payload, State) -> deliver(Alias, Payload, State);
control({?MONITOR_P, From, To, Ref}, _, State) -> monitored(From, To, Ref, State);
control({?DEMONITOR_P, _From, _To, Theirs}, _, #state{theirs = Refs, ours = Ours} = State) ->
    case maps:take(Theirs, Refs) of
        {Ref, Rest} ->
            true = erlang:demonitor(Ref, [flush]),
            State#state{theirs = Rest, ours = maps:remove(Ref, Ours)};
        error ->
            State
    end;
control({?MONITOR_P_EXIT, _From, _To, Ref}, Payload, #state{names = Names} = State) ->
    case Names of
        #{Ref := Pid} -> exit(Pid, binary_to_term(Payload));
        _ -> true
    end,
    State;
%% Nothing here is linked to the gateway, and nothing is spawned for it.
control(_Other, _Payload, State) ->
    State.

deliver(To, Payload, State) ->
    _ = erlang:send(To, binary_to_term(Payload), [noconnect]),
    State.

%% A pid of an earlier life of this node, or of another, cannot be told from a dead one.
monitored(From, To, Theirs, #state{theirs = Refs, ours = Ours} = State)
  when is_pid(To); is_atom(To), To =/= undefined ->
    Ref = erlang:monitor(process, To),
    State#state{theirs = Refs#{Theirs => Ref}, ours = Ours#{Ref => {From, To, Theirs}}};
monitored(From, To, Theirs, State) ->
    told_end(From, To, Theirs, noproc, State),
    State.

told_end(From, To, Theirs, Reason, #state{port = Port}) ->
    Told = case Reason of
               noconnection -> noproc;
               _ -> Reason
           end,
    send(Port, {?MONITOR_P_EXIT, To, From, Theirs}, Told).

%%% What goes

send(Port, Control) ->
    write(Port, [?PASS_THROUGH, encode(Control)]).

send(Port, Control, Message) ->
    write(Port, [?PASS_THROUGH, encode(Control) | encode(Message)]).

%% Atoms in UTF-8 on every release, as in distribution.
encode(Term) ->
    term_to_iovec(Term, [{minor_version, 2}]).

%% False if the program is gone, or if this node has a name by now: under that name the gateway
%% does not know its processes.
write(none, _Frame) ->
    false;
write(Port, Frame) ->
    case esdb_gater_transport:kind() of
        piped ->
            try port_command(Port, Frame)
            catch error:badarg -> false
            end;
        distribution ->
            false
    end.
