%% Where the secret comes from, in nodes that have done nothing else.
-module(esdb_pubsub_secret_tests).

-include_lib("eunit/include/eunit.hrl").

the_configured_secret_is_used_before_the_application_is_loaded_test_() ->
    {timeout, 60, fun() ->
        [?assertEqual(<<"configured">>, first_secret(Environment))
         || Environment <- [[{security, [{hmac_secret, <<"configured">>}]}],
                            [{security, #{hmac_secret => "configured"}}],
                            [{hmac_secret, <<"configured">>}]]]
    end}.

a_configured_rate_is_used_before_the_application_is_loaded_test_() ->
    {timeout, 60, fun() ->
        Answers = fresh([{channels, [{mine, [{max_rate, 2}]}]}], fun() ->
            [esdb_pubsub_security:check_rate(mine, <<"t">>) || _ <- lists:seq(1, 3)]
        end),
        ?assertEqual([ok, ok, {error, rate_limited}], Answers)
    end}.

first_secret(Environment) ->
    fresh(Environment, fun() ->
        undefined = application:get_key(erl_esdb_gater, vsn),
        esdb_pubsub_security:get_secret()
    end).

%% Runs a function in a new node with a `sys.config'.
fresh(Environment, Fun) ->
    File = filename:join("/tmp", lists:concat([?MODULE, "_", os:getpid(), ".config"])),
    ok = file:write_file(File, io_lib:format("~tp.~n", [[{erl_esdb_gater, Environment}]])),
    Paths = [filename:dirname(code:which(M)) || M <- [?MODULE, esdb_pubsub_security]],
    {ok, Peer, _} = peer:start_link(#{connection => standard_io,
                                      args => ["-config", File
                                               | lists:append([["-pa", P] || P <- Paths])]}),
    try peer:call(Peer, erlang, apply, [Fun, []], 30000)
    after
        ok = peer:stop(Peer),
        ok = file:delete(File)
    end.
