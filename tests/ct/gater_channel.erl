%% @doc A channel with callbacks for the suites. It refuses the message `refused' and the topic
%% `<<"closed">>', keeps subscribers of `<<"held">>', fails on `crash', and tells the process of its
%% option `report' what it is asked.
-module(gater_channel).

-behaviour(esdb_channel).

-export([init/1, handle_publish/3, handle_subscribe/3, handle_unsubscribe/3, handle_message/2,
         terminate/2, max_rate/0]).

init(#{report := Pid}) -> {ok, {Pid, 0}}.

%% Messages are numbered in the state, so that a lost state would show.
handle_publish(_Topic, refused, _State) -> {error, not_this_one};
handle_publish(_Topic, crash, _State) -> error(on_purpose);
handle_publish(_Topic, nonsense, _State) -> nonsense;
handle_publish(Topic, Message, {Pid, N}) ->
    Pid ! {published, node(), Topic, Message, N},
    {ok, {Pid, N + 1}}.

handle_subscribe(<<"closed">>, _Subscriber, _State) -> {error, closed};
handle_subscribe(Topic, Subscriber, {Pid, _} = State) ->
    Pid ! {subscribed, node(), Topic, Subscriber},
    {ok, State}.

handle_unsubscribe(<<"held">>, _Subscriber, _State) -> {error, held};
handle_unsubscribe(Topic, Subscriber, {Pid, _} = State) ->
    Pid ! {unsubscribed, node(), Topic, Subscriber},
    {ok, State}.

handle_message(Message, {Pid, _} = State) ->
    Pid ! {told, Message},
    {ok, State}.

terminate(Reason, {Pid, _}) -> Pid ! {terminated, Reason}.

max_rate() -> 50.
