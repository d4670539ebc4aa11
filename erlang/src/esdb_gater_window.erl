%%% @private
%%% @doc How a process publishes through the gateway in use: within a window, or by a call.
%%%
%%% Where the gateway refuses nothing (no rate, no signature, no capability needed), a publication
%%% is sent and not waited for. Every 128th, or the one that makes 256 KiB, is a *mark*: it asks for
%%% an answer, which says that the gateway has taken it and all that this process has sent before it
%%% on the channel, since a connection keeps the order of a sender. The answers go to
%%% {@link esdb_gater_acknowledger}, so that nothing but what it waits for itself gets into the
%%% mailbox of a publisher. With four marks unanswered the window is full: the publisher waits for
%%% the oldest.
%%%
%%% What a publisher has under way stands in its process dictionary and ends with it. The marks
%%% stand in a table until they are answered, or until the gateway is lost.
%%%
%%% A publisher whose gateway has changed, and who has something under way at the former one, first
%%% waits until that has taken it or cannot be reached any more. So its messages keep their order.
%%%
%%% A call watches a local process in place of the gateway: the link of this node watches that
%%% already, and ends the process when it is lost.
%%% @end
-module(esdb_gater_window).

-include("esdb_gater_window.hrl").

-export([tables/0, close_all/0, find/2, continue/4, send/4, call/3, is_local/2]).

-export_type([window/0]).

-type window() :: #window{}.

-define(WINDOWS, esdb_gater_windows).
-define(MARKS, esdb_gater_marks).
-define(BATCH_MESSAGES, 128).           % a mark follows after so many
-define(BATCH_BYTES, 256 * 1024).       % or after so much in the external format
-define(MARKS_UNDER_WAY, 4).
-define(SILENCE, 3000).                 % ms a window may be full, unless configured
-define(CALL_TIMEOUT, 5000).            % ms

%% What a process has under way on a channel.
-record(flight, {
    window :: #window{},
    messages = 0 :: non_neg_integer(),      % since the last mark
    bytes = 0 :: non_neg_integer(),
    marks = [] :: [pos_integer()]           % that may be unanswered, the oldest first
}).

%% @doc The tables to make, as arguments of `ets:new/2'.
-spec tables() -> [{atom(), [term()]}].
tables() ->
    [{?WINDOWS, [set, public, named_table, {keypos, #window.channel}, {read_concurrency, true}]},
     {?MARKS, [set, public, named_table, {write_concurrency, true}]}].

%% @doc No window counts any more, whoever has it open.
-spec close_all() -> ok.
close_all() ->
    lists:foreach(fun(#window{counters = Counters}) -> ok = atomics:put(Counters, ?STATE, ?CLOSED) end,
                  ets:tab2list(?WINDOWS)),
    true = ets:delete_all_objects(?WINDOWS),
    ok.

%% @doc How to publish on a channel. Waits for a gateway for at most so many milliseconds.
%% `none': there is a gateway and nobody to acknowledge just now, so it has to be called directly.
-spec find(Channel :: atom(), Milliseconds :: non_neg_integer()) ->
          {ok, window()} | {none, Gateway :: node()} | {error, no_gateway | unknown_channel}.
find(Channel, Timeout) ->
    case esdb_gater_link:await_gateway(Timeout) of
        {ok, Gateway} ->
            window(Channel, Gateway);
        {error, _} = Error ->
            Error
    end.

window(Channel, Gateway) ->
    try ets:lookup(?WINDOWS, Channel) of
        [#window{gateway = Gateway} = Window] -> {ok, Window};
        _ -> esdb_gater_acknowledger:open(Channel, Gateway)
    catch
        error:badarg -> {error, no_gateway}             % the application has just stopped
    end.

%% @doc Whether subscribers of this node get what is published here without the gateway.
-spec is_local(Channel :: atom(), Gateway :: node()) -> boolean().
is_local(Channel, Gateway) ->
    case window(Channel, Gateway) of
        {ok, #window{local = Local}} -> Local;
        _ -> false
    end.

%% @doc Publishes as {@link send/4} does within the window that this process has open, without looking
%% for the gateway. `none': it has none, or the gateway of that has been left.
-spec continue(Channel :: atom(), Topic :: binary(), Message :: term(), Bytes :: non_neg_integer()) ->
          ok | {error, no_gateway} | none.
continue(Channel, Topic, Message, Bytes) ->
    case get({?MODULE, Channel}) of
        #flight{window = #window{counters = Counters}} = Flight ->
            case atomics:get(Counters, ?STATE) of
                ?CLOSED -> none;
                _ -> send_with_room(Flight, Topic, Message, Bytes)
            end;
        undefined ->
            none
    end.

%% @doc Publishes a message that takes so many bytes. `ok': it is on its way. `{error, confirm}': it
%% has to be published by {@link call/3}. `{error, no_gateway}': nothing was sent, since the window
%% stayed full for as long as a gateway may be silent, or the gateway is lost.
-spec send(window(), Topic :: binary(), Message :: term(), Bytes :: non_neg_integer()) ->
          ok | {error, no_gateway | confirm}.
send(#window{windowed = false}, _Topic, _Message, _Bytes) ->
    {error, confirm};
send(Window, Topic, Message, Bytes) ->
    send_with_room(flight(Window), Topic, Message, Bytes).

send_with_room(#flight{messages = 0} = Full, Topic, Message, Bytes) ->
    case with_room(Full) of
        {ok, Flight} -> send_within(Flight, Topic, Message, Bytes);
        {error, _} = Error -> Error
    end;
send_with_room(Flight, Topic, Message, Bytes) ->
    send_within(Flight, Topic, Message, Bytes).

%% @doc Publishes a message and returns the gateway's answer. `Request' is `{publish, Topic,
%% Message}', or with a token behind the message.
-spec call(window(), Request :: tuple(), Message :: term()) -> ok | {error, term()}.
call(Window, Request, Message) ->
    _ = flight(Window),
    Topic = element(2, Request),
    case call(Window, setelement(1, Request, name(Window))) of
        ok -> deliver_here(Window, Topic, Message);
        Answer -> Answer
    end.

%% The form of a tag that names an alias.
-dialyzer({no_improper_lists, call/2}).
call(#window{session = Session} = Window, Request) ->
    Ref = erlang:monitor(process, Session, [{alias, reply_demonitor}]),
    Call = {'$gen_call', {self(), [alias | Ref]}, Request},
    case erlang:send(address(Window), Call, [noconnect]) of
        ok ->
            receive
                {[alias | Ref], Answer} -> Answer;
                {'DOWN', Ref, process, _, _} -> {error, no_gateway}
            after ?CALL_TIMEOUT ->
                given_up(Ref)
            end;
        noconnect ->
            given_up(Ref)
    end.

given_up(Ref) ->
    _ = erlang:demonitor(Ref, [flush]),
    receive {[alias | Ref], Answer} -> Answer
    after 0 -> {error, no_gateway}
    end.

%%% What is under way

flight(#window{channel = Channel, session = Session} = Window) ->
    case get({?MODULE, Channel}) of
        #flight{window = #window{session = Session}} = Flight ->
            Flight;
        undefined ->
            #flight{window = Window};
        #flight{} = Former ->
            ok = settle(Former),
            _ = erase({?MODULE, Channel}),
            #flight{window = Window}
    end.

%% Returns when the gateway that was used before has taken what this process has sent it, or cannot
%% be reached.
settle(#flight{window = #window{gateway = Gateway} = Window, messages = Messages, marks = Marks}) ->
    UnderWay = Messages > 0 orelse lists:any(fun is_under_way/1, Marks),
    case UnderWay andalso esdb_gater_transport:is_connected(Gateway) of
        true ->
            try gen_server:call(address(Window), {acknowledge}, silence()) of
                _ -> ok
            catch
                exit:_ -> ok
            end;
        false ->
            ok
    end.

%% Only a new batch needs room. That it begins is also the time to see whether there is still
%% somebody who acknowledges: when the application has ended, even by force, the session has as well.
with_room(#flight{window = #window{session = Session, counters = Counters}, marks = Marks} = Flight) ->
    case is_process_alive(Session) of
        true when length(Marks) >= ?MARKS_UNDER_WAY ->
            await_room(lists:dropwhile(fun(Mark) -> not is_under_way(Mark) end, Marks), Flight);
        true ->
            {ok, Flight};
        false ->
            ok = atomics:put(Counters, ?STATE, ?CLOSED),
            {error, no_gateway}
    end.

await_room([Oldest | Others] = Marks, Flight) when length(Marks) >= ?MARKS_UNDER_WAY ->
    case esdb_gater_acknowledger:await(Oldest, silence()) of
        ok -> {ok, Flight#flight{marks = Others}};
        {error, _} = Error -> Error
    end;
await_room(Marks, Flight) ->
    {ok, Flight#flight{marks = Marks}}.

is_under_way(Mark) ->
    try ets:member(?MARKS, Mark)
    catch error:badarg -> false
    end.

silence() ->
    maps:get(gateway_timeout_ms, esdb_gater_config:current(), ?SILENCE).

send_within(#flight{messages = Messages, bytes = Before} = Flight, Topic, Message, Bytes)
  when Messages + 1 >= ?BATCH_MESSAGES; Before + Bytes >= ?BATCH_BYTES ->
    #flight{window = Window, marks = Marks} = Flight,
    #window{channel = Channel, session = Session, counters = Counters} = Window,
    Mark = erlang:unique_integer([positive]),
    %% All that was counted has been sent, so it arrives before this one.
    Reached = atomics:get(Counters, ?SENT) + 1,
    Request = {'$gen_call', {Window#window.acknowledger, Mark}, {name(Window), Topic, Message}},
    try ets:insert(?MARKS, {Mark, Session, Channel, Reached}) of
        true -> sent(Request, Topic, Message, Flight#flight{messages = 0, bytes = 0,
                                                            marks = Marks ++ [Mark]})
    catch
        error:badarg -> {error, no_gateway}
    end;
send_within(#flight{window = Window, messages = Messages, bytes = Before} = Flight, Topic, Message,
            Bytes) ->
    Request = {'$gen_cast', {name(Window), Topic, Message}},
    sent(Request, Topic, Message, Flight#flight{messages = Messages + 1, bytes = Before + Bytes}).

%% It is counted when it has left: whatever is counted arrives before what is sent later.
sent(Request, Topic, Message, #flight{window = Window, marks = Marks} = Flight) ->
    #window{channel = Channel, session = Session, counters = Counters} = Window,
    case erlang:send(address(Window), Request, [noconnect]) of
        ok ->
            _ = put({?MODULE, Channel}, Flight),
            ok = atomics:add(Counters, ?SENT, 1),
            case atomics:get(Counters, ?STATE) of
                ?ACTIVE -> ok;
                State -> ok = esdb_gater_acknowledger:look_after(State, Channel, Session, Counters)
            end,
            deliver_here(Window, Topic, Message);
        noconnect when element(1, Request) =:= '$gen_call' ->
            _ = ets:delete(?MARKS, lists:last(Marks)),
            {error, no_gateway};
        noconnect ->
            {error, no_gateway}
    end.

%% The gateway sends the relay of this node no copy of what is published under this name.
name(#window{local = true}) -> publish_elsewhere;
name(#window{local = false}) -> publish.

address(#window{channel = Channel, gateway = Gateway}) ->
    esdb_gater_transport:address(Channel, Gateway).

deliver_here(#window{local = false}, _Topic, _Message) ->
    ok;
deliver_here(#window{channel = Channel}, Topic, Message) ->
    esdb_gater_local:deliver(Channel, Topic, Message).
