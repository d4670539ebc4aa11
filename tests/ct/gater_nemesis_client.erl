%% @doc The load of one node while a nemesis is at work: clients that know no library, only
%% `gen_server:call' and the names of the gateways, and go on to the next gateway when one fails
%% them. What they saw is judged by `gater_history'.
%%
%% Registrars start workers, register and unregister them and kill them. Executors call what a
%% gateway offers. Publishers publish numbered messages; a new process takes over when an outcome
%% is unknown, since what a gateway that stood still had read is published later. Subscribers
%% are of two kinds: some stay with their gateway through lost connections and subscribe there
%% again, which must change nothing; others go on to the next as new processes.
%%
%% The load can be paused: then nothing is under way any more, while subscribers go on receiving.
-module(gater_nemesis_client).

-export([start/1, stop/0, pause/0, resume/0, report/0, counts/0, workers/0, probe/2, probed/1]).

-define(REGISTRY, esdb_gater_worker_registry).
-define(CHANNELS, [esdb_channel_events, esdb_channel_audit]).
-define(TOPICS, [<<"red">>, <<"green">>]).
-define(STORES, [red_store, green_store]).

%% What a client waits for an answer. Shorter than the pauses of some faults, longer than most.
-define(CALL_MS, 1500).
%% Between two things one client does.
-define(THINK_MS, 25).
%% Before a client tries again what no gateway could do.
-define(RETRY_MS, 100).
%% Tries of one registration, before its outcome is left unknown.
-define(TRIES, 6).
%% Workers of one registrar that are registered, and that are alive without being registered.
-define(WORKERS, 12).
-define(WITHDRAWN, 4).

%% @doc Starts the load: `gateways' are their names, `seed' any term, and `registrars' (2),
%% `executors' (1), `publishers' (2), `subscribers' (2) the numbers of clients.
-spec start(map()) -> ok.
start(Options = #{gateways := _, seed := _}) ->
    Starter = self(),
    Pid = spawn(fun() ->
        register(?MODULE, self()),
        process_flag(trap_exit, true),
        Clients = maps:from_list(clients(Options)),
        Starter ! {self(), started},
        main(#{clients => Clients, options => Options, crashes => []})
    end),
    receive {Pid, started} -> ok end.

%% @doc Ends the load, its workers and its subscribers.
-spec stop() -> ok.
stop() ->
    Monitors = [monitor(process, Client) || Client <- ask(clients)],
    exit(whereis(?MODULE), kill),
    lists:foreach(fun(Monitor) -> receive {'DOWN', Monitor, _, _, _} -> ok end end, Monitors),
    case whereis(?MODULE) of undefined -> ok; _ -> error(load_goes_on) end.

%% @doc Pauses the load once all that is under way has ended.
-spec pause() -> ok.
pause() -> ask(pause).

%% @doc Goes on.
-spec resume() -> ok.
resume() -> ask(resume).

%% @doc What was seen: `workers' of `gater_history:worker/0', `deliveries' since the last report,
%% `subscribers' that are there, `crashes' of clients, and `counts' of outcomes.
-spec report() -> map().
report() -> ask(report).

%% @doc How often what happened.
-spec counts() -> map().
counts() -> maps:get(counts, ask(counts)).

%% @doc The living workers of this node, and what was done with them.
-spec workers() -> [gater_history:worker()].
workers() -> ask(workers).

%% @doc Publishes this probe through each of the gateways on every channel and topic.
-spec probe(term(), [node()]) -> ok.
probe(Probe, Gateways) ->
    [begin
         {Pid, Monitor} = spawn_monitor(fun() ->
             [_ = attempt({Channel, Gateway}, {publish, Topic, message(1, {probe, Probe, Gateway})})
              || Channel <- ?CHANNELS, Topic <- ?TOPICS]
         end),
         receive {'DOWN', Monitor, process, Pid, _} -> ok end
     end || Gateway <- Gateways],
    ok.

%% @doc The subscribers on this node with their gateway and what has reached them of this probe.
-spec probed(term()) -> [{pid(), node(), [{Gateway :: node(), Channel :: atom(), Topic :: binary()}]}].
probed(Probe) -> ask({probed, Probe}).

%%% The process that has them all

clients(#{gateways := Gateways, seed := Seed} = Options) ->
    Kinds = [{registrar, maps:get(registrars, Options, 2)}, {executor, maps:get(executors, Options, 1)},
             {publisher, maps:get(publishers, Options, 2)}, {subscriber, maps:get(subscribers, Options, 2)}],
    [begin
         %% Different clients start at different gateways.
         Mine = rotate(Number + erlang:phash2(node(), length(Gateways)), Gateways),
         {spawn_link(fun() ->
             _ = rand:seed(exsss, erlang:phash2({Seed, node(), Kind, Number})),
             client(Kind, Number, Mine)
         end), Kind}
     end || {Kind, Count} <- Kinds, Number <- lists:seq(1, Count)].

main(State = #{clients := Clients, crashes := Crashes}) ->
    receive
        {From, Tag, clients} ->
            From ! {Tag, maps:keys(Clients)},
            main(State);
        {From, Tag, Request} when is_reference(Tag) ->
            %% Asked all at once: each may have a call to wait for.
            Tags = [{monitor(process, Client), Client} || Client <- maps:keys(Clients)],
            _ = [Client ! {self(), Ref, Request} || {Ref, Client} <- Tags],
            Answers = [receive
                           {Ref, Answer} -> demonitor(Ref, [flush]), Answer;
                           {'DOWN', Ref, _, _, Reason} -> #{crashes => [{Client, Reason}]}
                       end || {Ref, Client} <- Tags],
            From ! {Tag, answer(Request, Answers, Crashes)},
            main(State);
        {'EXIT', Client, Reason} when is_map_key(Client, Clients) ->
            main(State#{clients := maps:remove(Client, Clients),
                        crashes := [{maps:get(Client, Clients), Reason} | Crashes]});
        {'EXIT', _, _} ->
            main(State)
    end.

answer(What, Answers, Crashes) when What =:= report; What =:= counts ->
    Joined = fun(Key) -> lists:append([maps:get(Key, Answer, []) || Answer <- Answers]) end,
    #{workers => Joined(workers), deliveries => Joined(deliveries), subscribers => Joined(subscribers),
      crashes => Joined(crashes) ++ Crashes,
      counts => lists:foldl(fun(Answer, Sum) ->
          maps:merge_with(fun(_, A, B) -> A + B end, maps:get(counts, Answer, #{}), Sum)
      end, #{}, Answers)};
answer(workers, Answers, _) ->
    lists:append([Workers || #{workers := Workers} <- Answers]);
answer({probed, _}, Answers, _) ->
    lists:append([Probed || #{probed := Probed} <- Answers]);
answer(_, _, _) ->
    ok.

ask(Request) ->
    Monitor = monitor(process, ?MODULE),
    ?MODULE ! {self(), Monitor, Request},
    receive
        {Monitor, Answer} -> demonitor(Monitor, [flush]), Answer;
        {'DOWN', Monitor, _, _, Reason} -> error({load_ended, Reason})
    end.

%% Between two steps a client answers what it is asked. `Report' is what it has to say.
between(State, Report, ThinkMs) ->
    between_until(State, Report, erlang:monotonic_time(millisecond) + ThinkMs).

between_until(State, Report, Deadline) ->
    receive
        {From, Ref, pause} -> From ! {Ref, #{}}, paused(State, Report);
        {From, Ref, Ask} when Ask =:= report; Ask =:= counts; Ask =:= workers ->
            From ! {Ref, Report(State)}, between_until(State, Report, Deadline);
        {From, Ref, _} when is_reference(Ref) -> From ! {Ref, #{}}, between_until(State, Report, Deadline)
    after max(0, Deadline - erlang:monotonic_time(millisecond)) ->
        State
    end.

paused(State, Report) ->
    receive
        {From, Ref, resume} -> From ! {Ref, #{}}, State;
        {From, Ref, Ask} when Ask =:= report; Ask =:= counts; Ask =:= workers ->
            From ! {Ref, Report(State)}, paused(State, Report);
        {From, Ref, _} when is_reference(Ref) -> From ! {Ref, #{}}, paused(State, Report)
    end.

client(registrar, _, Gateways) -> registrar(#{gateways => Gateways, workers => #{}, counts => #{}});
client(executor, _, Gateways) -> executor(#{gateways => Gateways, counts => #{}});
client(publisher, _, Gateways) -> publisher(#{gateways => Gateways, counts => #{}});
client(subscriber, Number, Gateways) ->
    Kind = case Number rem 2 of 1 -> faithful; 0 -> roaming end,
    subscribed(#{kind => Kind, gateways => Gateways, log => [], probes => [], counts => #{}}).

%%% Registrars

registrar(State) ->
    registrar(step(between(State, fun workers_report/1, rand:uniform(2 * ?THINK_MS)))).

workers_report(#{workers := Workers, counts := Counts}) ->
    #{workers => [{Store, Pid, lists:reverse(Operations)}
                  || {Pid, {Store, Operations}} <- maps:to_list(Workers)],
      counts => Counts}.

step(State = #{workers := Workers}) ->
    {In, Out} = lists:partition(fun({_, {_, Operations}}) -> registered(Operations) end,
                                lists:sort(maps:to_list(Workers))),
    case rand:uniform(100) of
        N when N =< 45, length(In) < ?WORKERS -> new_worker(State);
        %% What is registered already, or was before.
        N when N =< 55, Workers =/= #{} -> operate(register, one_of(maps:keys(Workers)), State);
        N when N =< 75, In =/= [] -> operate(unregister, key_of(In), State);
        N when N =< 90, In =/= [] -> kill(key_of(In), State);
        _ when length(Out) > ?WITHDRAWN -> kill(key_of(Out), State);
        _ -> State
    end.

registered([{register, _} | _]) -> true;
registered(_) -> false.

new_worker(State = #{workers := Workers}) ->
    Pid = spawn_link(fun worker/0),
    operate(register, Pid, State#{workers := Workers#{Pid => {one_of(?STORES), []}}}).

worker() ->
    receive
        {'$gen_call', From, {echo, Term}} -> gen_server:reply(From, {echoed, Term}), worker();
        _ -> worker()
    end.

kill(Pid, State = #{workers := Workers}) ->
    unlink(Pid),
    Monitor = monitor(process, Pid),
    exit(Pid, kill),
    receive {'DOWN', Monitor, _, _, _} -> ok end,
    count(killed, State#{workers := maps:remove(Pid, Workers)}).

operate(What, Pid, State = #{workers := Workers}) ->
    #{Pid := {Store, _}} = Workers,
    operate({What, Store, Pid}, ?TRIES, rand:uniform(2) =:= 1, State).

operate(_, 0, _, State) ->
    State;
operate(Request = {What, _, Pid}, Tries, Insist, State = #{gateways := [Gateway | _]}) ->
    case attempt({?REGISTRY, Gateway}, Request) of
        {answer, ok} -> noted(Pid, {What, ok}, State);
        {answer, {error, Reason}} when Reason =:= no_quorum; Reason =:= overloaded ->
            operate_again(Request, Tries, Insist, noted(Pid, {What, unknown}, count(Reason, State)));
        {answer, Other} -> noted(Pid, {What, {refused, Other}}, State);
        %% No clients insist for ever: some leave it at that.
        {unknown, _} -> operate_again(Request, Tries, Insist, noted(Pid, {What, unknown}, State))
    end.

operate_again(Request, Tries, true, State) ->
    pause_ms(?RETRY_MS),
    operate(Request, Tries - 1, true, next_gateway(State));
operate_again(_, _, false, State) ->
    next_gateway(State).

noted(Pid, Operation = {What, Outcome}, State = #{workers := Workers}) ->
    #{Pid := {Store, Operations}} = Workers,
    Key = case Outcome of {refused, _} -> refused; _ -> Outcome end,
    count({What, Key}, State#{workers := Workers#{Pid := {Store, [Operation | Operations]}}}).

%%% Executors

executor(State) -> executor(execute(between(State, fun counts_report/1, ?THINK_MS))).

counts_report(#{counts := Counts}) -> #{counts => Counts}.

execute(State = #{gateways := [Gateway | _]}) ->
    case attempt({?REGISTRY, Gateway}, {get_workers, one_of(?STORES)}) of
        {answer, {ok, []}} ->
            count({execute, no_workers}, State);
        {answer, {ok, Workers}} ->
            {_, Worker} = one_of(Workers),
            Nonce = rand:uniform(1 bsl 30),
            case attempt(Worker, {echo, Nonce}) of
                {answer, {echoed, Nonce}} -> count({execute, ok}, State);
                {unknown, _} -> count({execute, failed}, State)
            end;
        {unknown, _} ->
            next_gateway(count({look_up, failed}, State))
    end.

%%% Publishers

publisher(State0 = #{gateways := [Gateway | _]}) ->
    {Pid, Monitor} = spawn_monitor(fun() -> publisher(Gateway, #{}) end),
    State = count(publishers, State0),
    publisher(next_gateway(published(Pid, Monitor, State))).

%% Waits for the end of one that publishes, and passes on what is asked.
published(Pid, Monitor, State) ->
    receive
        {'DOWN', Monitor, _, _, {done, Counts}} -> add(Counts, State);
        {'DOWN', Monitor, _, _, Reason} -> exit({publisher, Reason});
        {From, Ref, pause} ->
            Pid ! {self(), pause},
            receive
                {Pid, paused} -> From ! {Ref, #{}};
                {'DOWN', Monitor, _, _, Reason} -> From ! {Ref, #{}}, self() ! {'DOWN', Monitor, process, Pid, Reason}
            end,
            Next = paused(State, fun counts_report/1),
            Pid ! {self(), resume},
            published(Pid, Monitor, Next);
        {From, Ref, Ask} when Ask =:= report; Ask =:= counts ->
            From ! {Ref, counts_report(State)},
            published(Pid, Monitor, State);
        {From, Ref, _} when is_reference(Ref) -> From ! {Ref, #{}}, published(Pid, Monitor, State)
    end.

%% One publisher: this process, with one gateway, until an outcome is unknown. `Numbers' are the
%% last of each channel and topic.
publisher(Gateway, Counts) -> publisher(Gateway, #{}, Counts).

publisher(Gateway, Numbers, Counts) ->
    receive
        {From, pause} ->
            From ! {self(), paused},
            receive {From, resume} -> ok end
    after rand:uniform(?THINK_MS) ->
        ok
    end,
    Stream = {Channel, Topic} = {one_of(?CHANNELS), one_of(?TOPICS)},
    Number = maps:get(Stream, Numbers, 0) + 1,
    Request = {publish, Topic, message(Number, load)},
    Counted = maps:update_with(published, fun(N) -> N + 1 end, 1, Counts),
    case rand:uniform(4) of
        1 ->
            gen_server:cast({Channel, Gateway}, Request),
            publisher(Gateway, Numbers#{Stream => Number}, Counted);
        _ ->
            case attempt({Channel, Gateway}, Request) of
                {answer, ok} -> publisher(Gateway, Numbers#{Stream => Number}, Counted);
                {answer, {error, overloaded}} -> publisher(Gateway, Numbers#{Stream => Number}, Counted);
                {unknown, _} -> pause_ms(?RETRY_MS), exit({done, Counted})
            end
    end.

%% Whose and which it is, and enough to see that it arrived as it was. Some leave in fragments.
message(Number, Purpose) ->
    Body = case rand:uniform(40) of
        1 -> binary:copy(<<Number:32>>, 25000);
        _ -> <<Number:32>>
    end,
    {nemesis, self(), Number, Purpose, erlang:md5(Body), Body}.

%%% Subscribers

%% Stays until its gateway is lost, which for the faithful is only a lost connection.
subscribed(State = #{gateways := [Gateway | _]}) ->
    Slot = self(),
    {Pid, Monitor} = spawn_monitor(fun() ->
        _ = monitor(process, Slot),
        subscriber(Slot, Gateway)
    end),
    subscribed(Pid, Monitor, State).

subscribed(Pid, Monitor, State = #{kind := Kind, gateways := [Gateway | _], log := Log}) ->
    receive
        {Pid, subscribed} ->
            subscribed(Pid, Monitor, count(subscribed, State));
        {Pid, failed} when Kind =:= faithful ->
            Pid ! {self(), again},
            subscribed(Pid, Monitor, State);
        {Pid, failed} ->
            %% It has sent all it was sent.
            Pid ! {self(), leave},
            receive {'DOWN', Monitor, _, _, left} -> ok end,
            subscribed(next_gateway(drained(Pid, State)));
        {Pid, seen, {probe, Probe, Through}, Delivery} ->
            {_, Channel, Topic, _, _} = Delivery,
            #{probes := Probes} = State,
            Kept = [Entry || Entry = {_, Of, _} <- Probes, Of =:= Probe],
            subscribed(Pid, Monitor, State#{probes := [{Pid, Probe, {Through, Channel, Topic}} | Kept],
                                            log := [Delivery | Log]});
        {Pid, seen, _, Delivery} ->
            subscribed(Pid, Monitor, count(delivered, State#{log := [Delivery | Log]}));
        {From, Ref, report} ->
            #{counts := Counts} = State,
            From ! {Ref, #{deliveries => lists:reverse(Log), counts => Counts,
                           subscribers => [{Pid, Kind, Gateway}]}},
            subscribed(Pid, Monitor, State#{log := []});
        {From, Ref, counts} ->
            From ! {Ref, counts_report(State)},
            subscribed(Pid, Monitor, State);
        {From, Ref, {probed, Probe}} ->
            #{probes := Probes} = State,
            From ! {Ref, #{probed => [{Pid, Gateway, lists:usort([What || {P, Of, What} <- Probes,
                                                                 P =:= Pid, Of =:= Probe])}]}},
            subscribed(Pid, Monitor, State);
        {From, Ref, _} when is_reference(Ref) ->
            From ! {Ref, #{}},
            subscribed(Pid, Monitor, State);
        {'DOWN', Monitor, _, _, Reason} ->
            exit({subscriber, Reason})
    end.

drained(Pid, State = #{log := Log}) ->
    receive
        {Pid, seen, _, Delivery} -> drained(Pid, State#{log := [Delivery | Log]})
    after 0 ->
        State
    end.

%% The process that is subscribed: it hands on what it is sent and says when its gateway fails.
subscriber(Slot, Gateway) ->
    Answers = [attempt({Channel, Gateway}, {subscribe, Topic, self()})
               || Channel <- ?CHANNELS, Topic <- ?TOPICS],
    case lists:usort(Answers) of
        [{answer, ok}] ->
            Slot ! {self(), subscribed},
            _ = monitor(process, {hd(?CHANNELS), Gateway});
        _ ->
            pause_ms(?RETRY_MS),
            Slot ! {self(), failed}
    end,
    subscriber_loop(Slot, Gateway).

subscriber_loop(Slot, Gateway) ->
    receive
        {channel_message, Channel, Topic, Message} ->
            {Purpose, Delivery} = delivery(Channel, Topic, Message),
            Slot ! {self(), seen, Purpose, Delivery},
            subscriber_loop(Slot, Gateway);
        {'DOWN', _, process, Slot, _} -> ok;
        {'DOWN', _, process, {_, Gateway}, _} -> Slot ! {self(), failed}, subscriber_loop(Slot, Gateway);
        {Slot, again} -> subscriber(Slot, Gateway);
        {Slot, leave} -> exit(left);
        Other ->
            Slot ! {self(), seen, load, {self(), {garbled, Other}}},
            subscriber_loop(Slot, Gateway)
    end.

delivery(Channel, Topic, {nemesis, Publisher, Number, Purpose, Digest, Body} = Message) ->
    case erlang:md5(Body) of
        Digest -> {Purpose, {self(), Channel, Topic, Publisher, Number}};
        _ -> {load, {self(), {garbled, setelement(6, Message, byte_size(Body))}}}
    end;
delivery(Channel, Topic, Message) ->
    {load, {self(), {garbled, {Channel, Topic, Message}}}}.

%%% Small things

%% A call whose outcome is known only when it is answered.
attempt(To, Request) ->
    try {answer, gen_server:call(To, Request, ?CALL_MS)}
    catch exit:{Reason, _} -> {unknown, Reason}
    end.

next_gateway(State = #{gateways := Gateways}) -> State#{gateways := rotate(1, Gateways)}.

rotate(By, List) ->
    {Front, Back} = lists:split(By rem length(List), List),
    Back ++ Front.

count(Key, State) -> add(#{Key => 1}, State).

add(More, State = #{counts := Counts}) ->
    State#{counts := maps:merge_with(fun(_, A, B) -> A + B end, Counts, More)}.

one_of(List) -> lists:nth(rand:uniform(length(List)), List).

key_of(Pairs) -> element(1, one_of(Pairs)).

pause_ms(Ms) -> receive after Ms -> ok end.
