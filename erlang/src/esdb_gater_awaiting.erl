%%% @private
%%% @doc Callers of the link that wait for a gateway, or for the first copy of the registry.
-module(esdb_gater_awaiting).

-export([new/0, add/4, wake/2, expire/2]).

-export_type([awaiting/0]).

-opaque awaiting() :: #{reference() => {copy | gateway, gen_server:from()}}.

%% @doc Nobody waits.
-spec new() -> awaiting().
new() -> #{}.

%% @doc One more waits. Unless woken before, the calling process is sent
%% `{expire_waiting, Ref}' after so many milliseconds, for {@link expire/2}.
-spec add(copy | gateway, Milliseconds :: non_neg_integer(), gen_server:from(), awaiting()) ->
          awaiting().
add(What, Milliseconds, From, Awaiting) ->
    Ref = make_ref(),
    _ = erlang:send_after(Milliseconds, self(), {expire_waiting, Ref}),
    Awaiting#{Ref => {What, From}}.

%% @doc There is a gateway: everybody is answered.
-spec wake(node(), awaiting()) -> awaiting().
wake(Gateway, Awaiting) ->
    maps:foreach(fun(_, {copy, From}) -> gen_server:reply(From, ok);
                    (_, {gateway, From}) -> gen_server:reply(From, {ok, Gateway})
                 end, Awaiting),
    new().

%% @doc One has waited long enough.
-spec expire(reference(), awaiting()) -> awaiting().
expire(Ref, Awaiting) ->
    case maps:take(Ref, Awaiting) of
        {{_, From}, Rest} ->
            gen_server:reply(From, {error, no_gateway}),
            Rest;
        error ->
            Awaiting
    end.
