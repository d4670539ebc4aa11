%% @doc A cluster of gateways that is broken on purpose: what judges the real one must find it out.
%%
%% On each of some BEAM nodes it answers to a gateway's names; one of them decides everything, so
%% that without a fault it is as good as a cluster can be.
-module(gater_nemesis_fake).

-export([start/2]).
-export_type([fault/0]).

-type fault() ::
    none
    %% Some registrations are acknowledged and forgotten.
    | loses_writes
    %% Some withdrawals are.
    | loses_withdrawals
    %% Nobody looks after workers.
    | keeps_the_dead
    %% A worker is in the list once for each time it was registered.
    | lists_twice
    %% The last gateway does not know the latest worker.
    | disagrees
    | delivers_twice
    | delivers_out_of_order
    %% A publication reaches the subscribers of its own gateway only.
    | delivers_at_home
    | garbles.

-define(REGISTRY, esdb_gater_worker_registry).
-define(FRONTS, [?REGISTRY, esdb_gater_cluster, esdb_channel_events, esdb_channel_audit]).
%% Every so many are treated wrongly.
-define(EVERY, 10).

%% @doc Makes this node a gateway of those given, of which the first decides. Called again it
%% starts afresh.
-spec start(fault(), [node(), ...]) -> ok.
start(Fault, Gateways = [First | _]) ->
    _ = [stop(Name) || Name <- [?MODULE | ?FRONTS]],
    case node() of
        First -> run(?MODULE, fun() ->
            decide(#{fault => Fault, gateways => Gateways, workers => [], subscribers => #{},
                     registrations => 0, publications => 0, held => none})
        end);
        _ -> ok
    end,
    lists:foreach(fun(Name) -> run(Name, fun() -> front(Name, First) end) end, ?FRONTS).

stop(Name) ->
    case whereis(Name) of
        undefined -> ok;
        Pid ->
            Monitor = monitor(process, Pid),
            exit(Pid, kill),
            receive {'DOWN', Monitor, _, _, _} -> ok end
    end.

run(Name, Fun) ->
    Self = self(),
    Pid = spawn(fun() -> register(Name, self()), Self ! {self(), started}, Fun() end),
    receive {Pid, started} -> ok end.

front(Name, First) ->
    receive Message -> {?MODULE, First} ! {Name, node(), Message} end,
    front(Name, First).

decide(State) ->
    receive
        {Name, Gateway, {'$gen_call', From, Request}} ->
            {Answer, Next} = serve(Name, Gateway, Request, State),
            gen_server:reply(From, Answer),
            decide(Next);
        {Name, Gateway, {'$gen_cast', Request}} ->
            {_, Next} = serve(Name, Gateway, Request, State),
            decide(Next);
        {'DOWN', _, process, Pid, _} ->
            decide(forget(Pid, State));
        _ ->
            decide(State)
    end.

serve(esdb_gater_cluster, _, status, State = #{gateways := [First | _], workers := Workers}) ->
    {{ok, #{leader => First, term => 1, applied => length(Workers)}}, State};
serve(?REGISTRY, Gateway, {get_workers, Store}, State = #{fault := Fault, workers := Workers, gateways := All}) ->
    Found = [{node(Pid), Pid} || {Of, Pid} <- lists:reverse(Workers), Of =:= Store],
    case Fault =:= disagrees andalso Found =/= [] andalso lists:last(All) of
        Gateway -> {{ok, lists:droplast(Found)}, State};
        _ -> {{ok, Found}, State}
    end;
serve(?REGISTRY, _, {register, Store, Pid}, State = #{fault := Fault, registrations := Before}) ->
    Next = State#{registrations := Before + 1},
    case Fault of
        loses_writes when Before rem ?EVERY =:= 0 -> {ok, Next};
        _ -> {ok, add({Store, Pid}, Next)}
    end;
serve(?REGISTRY, _, {unregister, _, _}, State = #{fault := loses_withdrawals}) ->
    {ok, State};
serve(?REGISTRY, _, {unregister, Store, Pid}, State) ->
    {ok, remove({Store, Pid}, State)};
serve(Channel, Gateway, {subscribe, Topic, Pid}, State = #{subscribers := Subscribers}) ->
    _ = monitor(process, Pid),
    Key = {Channel, Topic},
    Present = maps:get(Key, Subscribers, []),
    {ok, State#{subscribers := Subscribers#{Key => [{Gateway, Pid} | Present -- [{Gateway, Pid}]]}}};
serve(Channel, Gateway, {publish, Topic, Message}, State = #{publications := Before, subscribers := Subscribers}) ->
    {ok, publish({Channel, Topic, Message}, Gateway, maps:get({Channel, Topic}, Subscribers, []),
                 State#{publications := Before + 1})}.

add(Worker = {_, Pid}, State = #{fault := Fault, workers := Workers}) ->
    case lists:member(Worker, Workers) of
        true when Fault =/= lists_twice -> State;
        _ ->
            _ = Fault =:= keeps_the_dead orelse monitor(process, Pid),
            State#{workers := [Worker | Workers]}
    end.

remove(Worker, State = #{workers := Workers}) ->
    State#{workers := [Other || Other <- Workers, Other =/= Worker]}.

forget(Pid, State = #{workers := Workers, subscribers := Subscribers}) ->
    State#{workers := [Worker || Worker = {_, Of} <- Workers, Of =/= Pid],
           subscribers := maps:map(fun(_, List) -> lists:keydelete(Pid, 2, List) end, Subscribers)}.

publish(Publication = {Channel, Topic, Message}, Gateway, Subscribers, State = #{fault := Fault, publications := Count}) ->
    Now = Count rem ?EVERY =:= 0,
    Pids = [Pid || {At, Pid} <- Subscribers, Fault =/= delivers_at_home orelse At =:= Gateway],
    case Fault of
        delivers_twice when Now ->
            send(Pids, Publication),
            send(Pids, Publication),
            State;
        %% Held back until that publisher's next on the same topic has gone; a probe has none.
        delivers_out_of_order when Now, map_get(held, State) =:= none, element(4, Message) =:= load ->
            State#{held := Publication};
        delivers_out_of_order ->
            send(Pids, Publication),
            case State of
                #{held := {Channel, Topic, Held}} when element(2, Held) =:= element(2, Message) ->
                    send(Pids, {Channel, Topic, Held}),
                    State#{held := none};
                _ -> State
            end;
        garbles when Now ->
            send(Pids, {Channel, Topic, setelement(6, Message, <<"something else">>)}),
            State;
        _ ->
            send(Pids, Publication),
            State
    end.

send(Pids, {Channel, Topic, Message}) ->
    lists:foreach(fun(Pid) -> Pid ! {channel_message, Channel, Topic, Message} end, Pids).
