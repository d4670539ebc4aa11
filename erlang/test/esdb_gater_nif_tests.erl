-module(esdb_gater_nif_tests).

-include_lib("eunit/include/eunit.hrl").

-define(SECRET, <<"a secret for tests">>).

library_and_erlang_sign_alike_test_() ->
    only_with_library(
      fun() ->
          Ring = esdb_gater_nif:ring(?SECRET),
          esdb_gater_gen:holds(
            fun esdb_gater_gen:message/0,
            fun(Message) ->
                Now = 1700000000,
                Bytes = esdb_gater_canonical:bytes(Message#{signed_at => Now}),
                Expected = base64:encode(crypto:mac(hmac, sha256, ?SECRET, Bytes)),
                %% Whatever way the term came encoded, and on whatever scheduler.
                lists:all(
                  fun(Options) ->
                      Encoded = term_to_binary(Message, Options),
                      esdb_gater_nif:sign(Encoded, Ring, Now) =:= Expected andalso
                          esdb_gater_nif:sign_dirty(Encoded, Ring, Now) =:= Expected
                  end, [[], [{minor_version, 1}], [{minor_version, 2}], [deterministic]])
            end)
      end).

maps_are_signed_without_an_encoding_as_with_one_test_() ->
    only_with_library(
      fun() ->
          Ring = esdb_gater_nif:ring(?SECRET),
          {timeout, 60, fun() -> lists:foreach(fun(Map) -> signed_directly(Map, Ring) end, maps()) end}
      end).

signed_directly(Map, Ring) ->
    Now = 1700000000,
    Timed = maps:remove(signature, Map#{signed_at => Now}),
    Mac = fun(Message) ->
              Bytes = term_to_binary(lists:sort(maps:to_list(Message)),
                                     [deterministic, {minor_version, 2}]),
              base64:encode(crypto:mac(hmac, sha256, ?SECRET, Bytes))
          end,
    %% The second time from what was remembered.
    [?assertEqual(Mac(Timed), esdb_gater_nif:sign_map(Map, Ring, Now)) || _ <- [1, 2]],
    [?assertEqual(ok, esdb_gater_nif:verify_map(Timed#{signature => Mac(Timed)}, Ring, Now, 1))
     || _ <- [1, 2]].

maps() ->
    Atom = fun(N) -> list_to_atom("nif_test_" ++ integer_to_list(N)) end,
    Of = fun(Keys) -> maps:from_list([{Key, Key} || Key <- Keys]) end,
    %% More atoms and sets of keys than are remembered, and longer ones.
    Many = [Of([Atom(N + K) || K <- lists:seq(1, Size)])
            || Size <- [0, 1, 2, 31, 33, 127, 128, 129, 300], N <- lists:seq(0, 4000, 97)],
    Long = [Of([list_to_atom(lists:duplicate(N, C)) || N <- [0, 15, 16, 17 | lists:seq(35, 42)]
                                                           ++ [254, 255], C <- "az"])],
    %% Those whose order is not that in which they were made, and with one the start of another.
    Named = [Of([list_to_atom(Prefix ++ Name) || Name <- ["z", "a", "signed_at", "signed_at0",
                                                          "signed_a", "signature", [0], ""]])
             || Prefix <- ["", "x", "a_longer_prefix_", "one_of_sixteen__"]],
    %% Pieces that fill what is written before it is hashed.
    Pieces = [#{a => [lists:duplicate(4000 - N, 7), lists:duplicate(N, 300)], aa => [1.5, <<>>],
                b => [binary:copy(<<"x">>, Size) || Size <- [1023, 1024, 1023, 1023, N]]}
              || N <- lists:seq(0, 400, 7)],
    Nested = [lists:foldl(fun(N, Inner) -> #{Atom(N) => Inner, b => [N, Inner], a => {Inner}} end,
                          #{<<"z">> => 1, <<"a">> => -1, <<>> => 1 bsl 40}, lists:seq(1, 5))],
    Many ++ Long ++ Named ++ Pieces ++ Nested.

what_only_an_encoding_can_sign_is_unsupported_test_() ->
    only_with_library(
      fun() ->
          Ring = esdb_gater_nif:ring(?SECRET),
          Deep = lists:foldl(fun(_, Inner) -> [Inner] end, a, lists:seq(1, 100_000)),
          [?_assertEqual(unsupported, esdb_gater_nif:sign_map(#{key => Term}, Ring, 1))
           || Term <- [[1 | 2], [a | b], 'grün', 'λ', <<1:1>>, self(), make_ref(), 1 bsl 64, Deep,
                       #{a => 1, <<"a">> => 2}, #{1 => 2}, #{'grün' => 1},
                       lists:duplicate(5000, 1), lists:duplicate(5000, a),
                       maps:from_list([{N, N} || N <- lists:seq(1, 5000)]),
                       binary:copy(<<"x">>, 100_000), #{binary:copy(<<"x">>, 100_000) => 1},
                       lists:duplicate(200, binary:copy(<<"x">>, 1000))]]
      end).

library_and_erlang_judge_alike_test_() ->
    only_with_library(
      fun() ->
          Sign = fun(Message) -> esdb_pubsub_security:sign(Message, ?SECRET) end,
          esdb_gater_gen:holds(
            fun() -> esdb_gater_gen:mutated(Sign) end,
            fun(Message) ->
                Native = esdb_pubsub_security:verify(Message, ?SECRET),
                Erlang = in_erlang(fun() -> esdb_pubsub_security:verify(Message, ?SECRET) end),
                Native =:= Erlang
            end)
      end).

what_one_signs_the_other_accepts_test_() ->
    only_with_library(
      fun() ->
          esdb_gater_gen:holds(
            fun esdb_gater_gen:message/0,
            fun(Message) ->
                Native = esdb_pubsub_security:sign(Message, ?SECRET),
                Erlang = in_erlang(fun() -> esdb_pubsub_security:sign(Message, ?SECRET) end),
                esdb_pubsub_security:verify(Erlang, ?SECRET) =:= ok andalso
                    in_erlang(fun() -> esdb_pubsub_security:verify(Native, ?SECRET) end) =:= ok
            end)
      end).

the_latin1_form_verifies_test_() ->
    only_with_library(
      fun() ->
          esdb_gater_gen:holds(
            fun esdb_gater_gen:message/0,
            fun(Message) ->
                Timed = Message#{signed_at => os:system_time(second)},
                Bytes = esdb_gater_canonical:bytes(Timed, latin1),
                Mac = base64:encode(crypto:mac(hmac, sha256, ?SECRET, Bytes)),
                Signed = Timed#{signature => Mac},
                esdb_pubsub_security:verify(Signed, ?SECRET) =:= ok andalso
                    in_erlang(fun() -> esdb_pubsub_security:verify(Signed, ?SECRET) end) =:= ok
            end)
      end).

bytes_that_are_no_message_do_no_harm_test_() ->
    only_with_library(
      fun() ->
          Ring = esdb_gater_nif:ring(?SECRET),
          Encoded = term_to_binary(#{a => [1, 2 | 3], b => #{c => <<1:3>>, 1.5 => self()},
                                     signature => binary:copy(<<"A">>, 44), signed_at => 1000}),
          fun() ->
              Cut = [binary:part(Encoded, 0, N) || N <- lists:seq(0, byte_size(Encoded) - 1)],
              Flipped = [flip(Encoded, At, Bit) || At <- lists:seq(0, byte_size(Encoded) - 1),
                                                   Bit <- lists:seq(0, 7)],
              [begin
                   Signature = esdb_gater_nif:sign(Bytes, Ring, 1),
                   ?assert(is_binary(Signature) orelse is_atom(Signature)),
                   ?assert(is_atom(esdb_gater_nif:verify(Bytes, Ring, 1000, 300)))
               end || Bytes <- Cut ++ Flipped],
              ?assertEqual(badarg, esdb_gater_nif:sign(term_to_binary(1), Ring, 1))
          end
      end).

wrong_arguments_raise_test_() ->
    only_with_library(
      fun() ->
          Ring = esdb_gater_nif:ring(?SECRET),
          Limiter = esdb_gater_nif:limiter(1, 1),
          [?_assertError(badarg, esdb_gater_nif:sign(not_binary, Ring, 1)),
           ?_assertError(badarg, esdb_gater_nif:sign(<<131, 106>>, Limiter, 1)),
           ?_assertError(badarg, esdb_gater_nif:sign(<<131, 106>>, make_ref(), 1)),
           ?_assertError(badarg, esdb_gater_nif:check(Ring, <<"topic">>)),
           ?_assertError(badarg, esdb_gater_nif:check(Limiter, topic))]
      end).

%%% Loading, each case in a node of its own.

the_library_is_found_test_() ->
    only_with_library(
      fun() ->
          [{"as the application",
            loading("erl_esdb_gater", with_library, "loaded")},
           {"as the application with its version",
            loading("erl_esdb_gater-9.9.9", with_library, "loaded")},
           {"beside the modules, under any name",
            loading("some where", with_library, "loaded")}]
      end).

without_a_loadable_library_erlang_does_it_test_() ->
    [{"there is none", loading("erl_esdb_gater", none, "not_found")},
     {"it is damaged", loading("erl_esdb_gater", damaged, "load_failed")}].

a_second_version_is_refused_and_the_first_stays_test_() ->
    only_with_library(
      fun() ->
          {timeout, 60,
           fun() ->
               Expression = "S = esdb_pubsub_security:sign(#{a => 1}, \"x\"),"
                   "R = code:load_file(esdb_gater_nif),"
                   "io:format(\"~0tp ~0tp ~0tp\", [R, esdb_gater_nif:status(),"
                   "esdb_pubsub_security:verify(S, \"x\")])",
               Output = run("erl_esdb_gater", with_library, Expression),
               %% A report of the refusal comes before or after.
               ?assertNotEqual({Output, nomatch},
                               {Output, string:find(Output, "{error,on_load_failure} loaded ok")})
           end}
      end).

%% A node with the modules in Name/ebin says why it has the library or has not, and signs.
loading(Name, Library, Expected) ->
    {timeout, 60,
     fun() ->
         Expression = "S = esdb_pubsub_security:sign(#{a => 1}, \"x\"),"
             "ok = esdb_pubsub_security:verify(S, \"x\"),"
             "true = esdb_gater_limit:check(esdb_gater_limit:new(1), <<\"t\">>),"
             "io:format(\"~0tp\", [esdb_gater_nif:status()])",
         Status = run(Name, Library, Expression),
         ?assertNotEqual({Status, nomatch}, {Status, string:find(Status, Expected)})
     end}.

run(Name, Library, Expression) ->
    Root = filename:join(temporary(), "nif " ++ integer_to_list(erlang:unique_integer([positive]))
                         ++ "-" ++ os:getpid()),
    Ebin = filename:join([Root, Name, "ebin"]),
    So = filename:join([Root, Name, "priv", "gater_nif.so"]),
    ok = filelib:ensure_dir(So),
    ok = filelib:ensure_dir(filename:join(Ebin, "x")),
    try
        [{ok, _} = file:copy(code:which(Module),
                             filename:join(Ebin, atom_to_list(Module) ++ ".beam"))
         || Module <- [esdb_gater_nif, esdb_gater_canonical, esdb_gater_limit, esdb_gater_config,
                       esdb_gater_bounds, esdb_pubsub_security]],
        case Library of
            none -> ok;
            damaged -> ok = file:write_file(So, <<"not a library">>);
            with_library -> {ok, File} = esdb_gater_gen:library(), {ok, _} = file:copy(File, So)
        end,
        Erl = os:find_executable("erl"),
        Port = open_port({spawn_executable, Erl},
                         [{args, ["-noinput", "-pa", Ebin, "-eval", Expression ++ ", halt(0)."]},
                          {cd, Root}, exit_status, hide, stderr_to_stdout]),
        output(Port, [])
    after
        ok = file:del_dir_r(Root)
    end.

output(Port, Lines) ->
    receive
        {Port, {data, Data}} -> output(Port, [Lines, Data]);
        {Port, {exit_status, 0}} -> lists:flatten(Lines);
        {Port, {exit_status, Status}} -> error({exit_status, Status, lists:flatten(Lines)})
    after 50_000 ->
        error({no_end, lists:flatten(Lines)})
    end.

temporary() ->
    case os:getenv("TMPDIR") of
        false -> "/tmp";
        Dir -> Dir
    end.

flip(Bytes, At, Bit) ->
    <<Before:At/binary, Byte, After/binary>> = Bytes,
    <<Before/binary, (Byte bxor (1 bsl Bit)), After/binary>>.

only_with_library(Tests) ->
    {generator, fun() ->
                    case esdb_gater_gen:library() of
                        {ok, _} -> Tests();
                        none -> []
                    end
                end}.

%% As if the library were not there.
in_erlang(Fun) ->
    Status = persistent_term:get(esdb_gater_nif),
    persistent_term:put(esdb_gater_nif, {not_loaded, not_found}),
    try Fun() after persistent_term:put(esdb_gater_nif, Status) end.
